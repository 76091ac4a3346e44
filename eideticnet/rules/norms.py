"""Normalisation: of each neuron by itself, in groups of one owner, or over the prefix."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from eideticnet.calls import Call
from eideticnet.groups import Groups
from eideticnet.program import Features, Step
from eideticnet.rules.base import Axis, Rule

BATCH_NORMS = {"BatchNorm1d": nn.BatchNorm1d, "BatchNorm2d": nn.BatchNorm2d, "BatchNorm3d": nn.BatchNorm3d}
INSTANCE_NORMS = {
    "InstanceNorm1d": nn.InstanceNorm1d,
    "InstanceNorm2d": nn.InstanceNorm2d,
    "InstanceNorm3d": nn.InstanceNorm3d,
}
_AFFINE: dict[str, tuple[Axis, ...]] = {"weight": ("out",), "bias": ("out",)}


def _channels_are_features(call: Call, owned: Features, channel: int) -> None:
    if not owned.raw and owned.dim != channel:
        raise call.refuse("normalises a dimension that is not the feature dimension")


class BatchNormRule(Rule):
    """nn.BatchNorm1d, 2d and 3d: one stock layer for each block, on the block's own piece."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {
        **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ("out",)),
        "num_batches_tracked": (),
    }

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(_BatchNorm)
        if type(layer).__name__ not in BATCH_NORMS:
            raise call.refuse("is a norm over several processes", "nn.BatchNorm2d")
        if not layer.track_running_stats:
            raise call.refuse(
                "normalises with the statistics of the batch that it is given", "track_running_stats=True"
            )
        _channels_are_features(call, call.features, 1 - len(call.shape))
        groups.read_alike(path, call.features)
        options = {
            "kind": type(layer).__name__,
            "eps": layer.eps,
            "momentum": layer.momentum,
            "affine": layer.affine,
            "raw_columns": layer.num_features,
        }
        return Step(call.name, "batch_norm", call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        options = {k: step.options[k] for k in ("eps", "momentum", "affine")}
        return BATCH_NORMS[step.options["kind"]](columns_out, **options)


class InstanceNormRule(Rule):
    """nn.InstanceNorm1d, 2d and 3d without running statistics: each channel by itself."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = _AFFINE

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(_InstanceNorm)
        if layer.track_running_stats:
            raise call.refuse("keeps running statistics", "track_running_stats=False")
        _channels_are_features(call, call.features, 1 - len(call.shape))
        groups.read_alike(path, call.features)
        options = {
            "kind": type(layer).__name__,
            "eps": layer.eps,
            "affine": layer.affine,
            "raw_columns": layer.num_features,
        }
        return Step(call.name, "instance_norm", call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        kind = INSTANCE_NORMS[step.options["kind"]]
        return kind(columns_out, eps=step.options["eps"], affine=step.options["affine"])


class GroupNormRule(Rule):
    """nn.GroupNorm with several groups: each group of channels belongs wholly to one owner."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = _AFFINE

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(nn.GroupNorm)
        _channels_are_features(call, call.features, 1 - len(call.shape))
        size = layer.num_channels // layer.num_groups
        if layer.num_groups == 1 and not call.features.raw:
            return PrefixNormRule().over_channels(call, groups, path, layer)
        groups.need_unit(call.features, size, call)
        groups.read_alike(path, call.features)
        options = {"size": size, "eps": layer.eps, "affine": layer.affine, "raw_columns": layer.num_channels}
        return Step(call.name, "group_norm", call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        o = step.options
        return nn.GroupNorm(columns_out // o["size"], columns_out, eps=o["eps"], affine=o["affine"])


class PrefixNormRule(Rule):
    """nn.LayerNorm over the features, and nn.GroupNorm with one group: the mean and the variance
    are those of all columns that the owner may read, and only its own columns are handed on."""

    reads_prefix = True
    floor = 4  # over one column the result is constant, over two it is a sign
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = _AFFINE

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(nn.LayerNorm)
        if len(layer.normalized_shape) != 1 and not call.features.raw:
            raise call.refuse("normalises over several dimensions", "nn.LayerNorm over the features alone")
        _channels_are_features(call, call.features, -1)
        columns = int(layer.normalized_shape[-1])
        whole = list(layer.normalized_shape) if call.features.raw else None
        return self._step(call, groups, path, layer, columns, whole)

    def over_channels(self, call: Call, groups: Groups, path: str, layer: nn.GroupNorm) -> Step:
        """The step for a GroupNorm whose one group is all channels."""
        return self._step(call, groups, path, layer, layer.num_channels, None)

    def _step(
        self,
        call: Call,
        groups: Groups,
        path: str,
        layer: nn.LayerNorm | nn.GroupNorm,
        columns: int,
        whole: list[int] | None,
    ) -> Step:
        groups.read_alike(path, call.features)
        affine = layer.weight is not None
        options: dict[str, Any] = {"eps": layer.eps, "affine": affine, "raw_columns": columns}
        options["bias"] = affine and layer.bias is not None
        options["positions"] = isinstance(layer, nn.GroupNorm)
        if whole is not None:
            return Step(call.name, "layer_norm", call.inputs, Features(), path, {**options, "shape": whole})
        return Step(call.name, "prefix_norm", call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        o = step.options
        return PrefixNorm(columns_in, columns_out, o["eps"], o["affine"], o["bias"], o["positions"])


class LayerNormRule(Rule):
    """nn.LayerNorm of the raw input: whole, for every owner by itself."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": (), "bias": ()}

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        o = step.options
        return nn.LayerNorm(o["shape"], o["eps"], elementwise_affine=o["affine"], bias=o["bias"])


class PrefixNorm(nn.Module):
    """Normalises ``read`` columns together and hands on the last ``written`` of them.

    The input is (..., read), or with ``positions`` (N, read, ...), normalised over the positions
    too. The kernel is that of the stock layer: on its own piece alone the bits are the same.
    """

    def __init__(
        self, read: int, written: int, eps: float, affine: bool, bias: bool, positions: bool
    ) -> None:
        super().__init__()
        self.read, self.written, self.eps, self.positions = read, written, eps, positions
        one, zero = nn.init.ones_, nn.init.zeros_
        self.weight = nn.Parameter(one(torch.empty(written))) if affine else None
        self.bias = nn.Parameter(zero(torch.empty(written))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        before = self.read - self.written
        weight = F.pad(self.weight, (before, 0)) if self.weight is not None and before else self.weight
        bias = F.pad(self.bias, (before, 0)) if self.bias is not None and before else self.bias
        if self.positions:
            return F.group_norm(x, 1, weight, bias, self.eps).narrow(1, before, self.written)
        return F.layer_norm(x, (self.read,), weight, bias, self.eps).narrow(-1, before, self.written)
