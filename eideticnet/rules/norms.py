"""Normalisation: of each neuron by itself, in groups of one owner, or over the prefix."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from eideticnet.program import Features, Step
from eideticnet.rules.base import Axis, Rule
from eideticnet.rules.calls import Call
from eideticnet.rules.groups import Groups

_BY_RANK = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}
_BY_CHANNEL: dict[str, type[Any]] = {
    f"{kind}{d}d": getattr(nn, f"{kind}{d}d") for kind in ("BatchNorm", "InstanceNorm") for d in (1, 2, 3)
}
_AFFINE: dict[str, tuple[Axis, ...]] = {"weight": ("out",), "bias": ("out",)}


def _without_bias(weight: Any, bias: Any) -> dict[str, bool]:
    """The option of a norm that scales and does not shift."""
    return {"bias": False} if weight is not None and bias is None else {}


def _channels_are_features(call: Call, owned: Features, channel: int) -> None:
    if not owned.raw and owned.dim != channel:
        raise call.refuse("normalises a dimension that is not the feature dimension")


class BatchNormRule(Rule, name="batch_norm"):
    """nn.BatchNorm1d, 2d and 3d: one stock layer for each block, on the block's own piece."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {
        **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ("out",)),
        "num_batches_tracked": (),
    }

    def trace(self, call: Call, groups: Groups) -> Step:
        weight, bias, mean, var, by_batch, momentum, eps = call.node.args[1:8]
        kind = f"BatchNorm{_BY_RANK[len(call.shape)]}"
        path = call.layer(kind, weight=weight, bias=bias, running_mean=mean, running_var=var)
        if by_batch:
            raise call.refuse(
                "normalises with the statistics of the batch that it is given", "track_running_stats=True"
            )
        _channels_are_features(call, call.features, 1 - len(call.shape))
        groups.read_alike(path, call.features)
        averages = getattr(call.trunk.get_submodule(path), "momentum", momentum) is None
        options = {
            "kind": kind,
            "eps": eps,
            "momentum": None if averages else momentum,
            "affine": weight is not None,
            "raw_columns": call.input_shape[1],
            **_without_bias(weight, bias),
        }
        if not call.twin.args[5]:
            options["stays"] = True
        return Step(call.name, "batch_norm", call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        options = {k: step.options[k] for k in ("eps", "momentum", "affine", "bias") if k in step.options}
        layer: nn.Module = _BY_CHANNEL[step.options["kind"]](columns_out, **options)
        return layer

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        if "stays" in step.options and layer is not None:  # in evaluation mode, as in the trunk
            layer.eval()
        return super().run(step, layer, inputs, training)


class InstanceNormRule(BatchNormRule, name="instance_norm"):
    """nn.InstanceNorm1d, 2d and 3d without running statistics: each channel by itself."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = _AFFINE

    def trace(self, call: Call, groups: Groups) -> Step:
        weight, bias, *running = call.node.args[1:5]
        kind = f"InstanceNorm{_BY_RANK[len(call.shape)]}"
        path = call.layer(kind, weight=weight, bias=bias)
        if running != [None, None]:
            raise call.refuse("keeps running statistics", "track_running_stats=False")
        _channels_are_features(call, call.features, 1 - len(call.shape))
        groups.read_alike(path, call.features)
        options = {
            "kind": kind,
            "eps": call.argument(7),
            "affine": weight is not None,
            "raw_columns": call.input_shape[1],
            **_without_bias(weight, bias),
        }
        return Step(call.name, "instance_norm", call.inputs, call.features, path, options)


class GroupNormRule(Rule, name="group_norm"):
    """nn.GroupNorm with several groups: each group of channels belongs wholly to one owner."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = _AFFINE

    def trace(self, call: Call, groups: Groups) -> Step:
        number, weight, bias = (call.argument(i) for i in (1, 2, 3))
        path = call.layer("GroupNorm", weight=weight, bias=bias)
        _channels_are_features(call, call.features, 1 - len(call.shape))
        channels = int(call.input_shape[1])
        if number == 1 and not call.features.raw:
            return PrefixNormRule().over_channels(call, groups, path)
        size = channels // number
        groups.need_unit(call.features, size, call)
        groups.read_alike(path, call.features)
        options = {
            "size": size,
            "eps": call.argument(4, 1e-5),
            "affine": weight is not None,
            "raw_columns": channels,
            **_without_bias(weight, bias),
        }
        return Step(call.name, "group_norm", call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        o = step.options
        options = {k: o[k] for k in ("eps", "affine", "bias") if k in o}
        return nn.GroupNorm(columns_out // o["size"], columns_out, **options)


class PrefixNormRule(Rule, name="prefix_norm"):
    """nn.LayerNorm and nn.RMSNorm over the features, nn.GroupNorm with one group: mean and variance
    are those of all columns that the owner may read, and only its own columns are handed on."""

    reads_prefix = True
    floor = 4  # over one column the result is constant, over two it is a sign
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = _AFFINE

    def trace(self, call: Call, groups: Groups) -> Step:
        if any(isinstance(n, Node) for n in call.argument(1)):
            raise call.refuse("normalises over the batch", "nn.LayerNorm over the features alone")
        shape, root = [int(n) for n in call.argument(1)], "rms" in call.operation
        bias = None if root else call.argument(3)
        path = call.layer("RMSNorm" if root else "LayerNorm", weight=call.argument(2), bias=bias)
        options: dict[str, Any] = {"raw_columns": shape[-1], "positions": False}
        if root:
            options |= {"root": True, "eps": call.argument(3)}
        else:
            options["eps"] = call.argument(4, 1e-5)
        if call.features.raw or call.features.dim < -len(shape):
            return self._step(call, groups, path, bias, "layer_norm", {**options, "shape": shape})
        if len(shape) != 1:
            raise call.refuse("normalises over several dimensions", "nn.LayerNorm over the features alone")
        return self._step(call, groups, path, bias, "prefix_norm", options)

    def over_channels(self, call: Call, groups: Groups, path: str) -> Step:
        """The step for a GroupNorm whose one group is all channels."""
        options = {"raw_columns": int(call.input_shape[1]), "positions": True, "eps": call.argument(4, 1e-5)}
        return self._step(call, groups, path, call.argument(3), "prefix_norm", options)

    def _step(
        self, call: Call, groups: Groups, path: str, bias: Any, rule: str, options: dict[str, Any]
    ) -> Step:
        groups.read_alike(path, call.features)
        options = {"affine": call.argument(2) is not None, "bias": bias is not None, **options}
        return Step(call.name, rule, call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        o = step.options
        positions, root = o["positions"], o.get("root", False)
        return PrefixNorm(columns_in, columns_out, o["eps"], o["affine"], o["bias"], positions, root)


class LayerNormRule(Rule, name="layer_norm"):
    """nn.LayerNorm of the raw input or over positions, nn.RMSNorm too: for every owner by itself."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": (), "bias": ()}

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        o = step.options
        if o.get("root"):
            return nn.RMSNorm(o["shape"], o["eps"], elementwise_affine=o["affine"])
        return nn.LayerNorm(o["shape"], o["eps"], elementwise_affine=o["affine"], bias=o["bias"])


class PrefixNorm(nn.Module):
    """Normalises ``read`` columns together and hands on the last ``written`` of them.

    The input is (..., read), or with ``positions`` (N, read, ...), normalised over the positions
    too. The kernel is that of the stock layer: on its own piece alone the bits are the same.
    """

    def __init__(
        self,
        read: int,
        written: int,
        eps: float | None,
        affine: bool,
        bias: bool,
        positions: bool,
        root: bool,
    ) -> None:
        super().__init__()
        self.read, self.written, self.eps, self.positions, self.root = read, written, eps, positions, root
        one, zero = nn.init.ones_, nn.init.zeros_
        self.weight = nn.Parameter(one(torch.empty(written))) if affine else None
        self.bias = nn.Parameter(zero(torch.empty(written))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        before = self.read - self.written
        weight = F.pad(self.weight, (before, 0)) if self.weight is not None and before else self.weight
        bias = F.pad(self.bias, (before, 0)) if self.bias is not None and before else self.bias
        if self.root:  # without an eps it is that of the type
            return F.rms_norm(x, (self.read,), weight, self.eps).narrow(-1, before, self.written)
        assert self.eps is not None
        if self.positions:
            return F.group_norm(x, 1, weight, bias, self.eps).narrow(1, before, self.written)
        return F.layer_norm(x, (self.read,), weight, bias, self.eps).narrow(-1, before, self.written)
