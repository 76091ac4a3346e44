"""Layers that mix neurons into new ones: what they read is the prefix."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from eideticnet.calls import Call
from eideticnet.groups import Groups
from eideticnet.program import Features, Run, Step
from eideticnet.rules.base import Axis, Rule

CONVS: dict[str, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


class LinearRule(Rule):
    """nn.Linear along the last dimension; what it writes is a new group."""

    reads_prefix = True
    makes_neurons = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out", "in"), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(nn.Linear)
        if not call.features.raw and call.features.dim != -1:
            raise call.refuse(
                "applies a Linear along a dimension that is not the feature dimension",
                "x.transpose(...) first",
            )
        groups.read_alike(path, call.features)
        written = groups.written(path, layer.out_features, -1)
        options = {"bias": layer.bias is not None, "raw_columns": layer.in_features}
        return Step(call.name, "linear", call.inputs, written, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return nn.Linear(columns_in, columns_out, bias=step.options["bias"])


class _Conv(Rule):
    """What all convolutions share: nn.Conv1d, 2d and 3d, with the arguments of the call."""

    def _read(self, call: Call) -> tuple[str, nn.Conv2d, dict[str, object]]:
        kind = call.operation.split(".")[1]
        path, layer = call.stock_layer(CONVS[kind])
        dims = len(layer.kernel_size)
        if not call.features.raw and call.features.dim != -1 - dims:
            raise call.refuse("convolves over the feature dimension")
        options = {
            "kind": kind,
            "kernel_size": list(layer.kernel_size),
            "stride": call.argument(3, [1] * dims),
            "padding": call.argument(4, [0] * dims),
            "dilation": call.argument(5, [1] * dims),
            "bias": layer.bias is not None,
            "raw_columns": layer.in_channels,
        }
        groups = {"stride", "padding", "dilation"}
        plain = {k: list(v) if k in groups and not isinstance(v, str) else v for k, v in options.items()}
        return path, layer, plain  # type: ignore[return-value]

    def _conv(self, step: Step, columns_in: int, columns_out: int, groups: int) -> nn.Module:
        options = {k: v for k, v in step.options.items() if k in _CONV_ARGUMENTS}
        padding = options["padding"]
        options["padding"] = padding if isinstance(padding, str) else tuple(padding)
        return CONVS[step.options["kind"]](columns_in, columns_out, groups=groups, **options)


_CONV_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "bias")


class ConvRule(_Conv):
    """A convolution of all channels; what it writes is a new group."""

    reads_prefix = True
    makes_neurons = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out", "in"), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer, options = self._read(call)
        groups.read_alike(path, call.features)
        written = groups.written(path, layer.out_channels, -1 - len(layer.kernel_size))
        return Step(call.name, "conv", call.inputs, written, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return self._conv(step, columns_in, columns_out, 1)


class GroupedConvRule(_Conv):
    """A depthwise or grouped convolution: its output belongs to whoever owns its input, a group
    of channels wholly to one owner."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out",), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer, options = self._read(call)
        read, written = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        if call.features.raw:
            raise call.refuse("convolves the raw input in groups", "a convolution with groups=1 first")
        groups.need_unit(call.features, read, call)
        groups.read_alike(path, call.features)
        runs = tuple(Run(r.group, r.repeat // read * written) for r in call.features.runs)
        features = Features(call.features.dim, runs, call.features.tile)
        return Step(call.name, "grouped_conv", call.inputs, features, path, {**options, "group": read})

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return self._conv(step, columns_in, columns_out, columns_in // step.options["group"])


class EmbeddingRule(Rule):
    """nn.Embedding of integers of the raw input, or of constant positions."""

    makes_neurons = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": (None, "out")}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(nn.Embedding)
        if layer.max_norm is not None:
            raise call.refuse("rewrites its own weights in forward", "max_norm=None")
        if layer.sparse:
            raise call.refuse("makes sparse gradients", "sparse=False")
        indices = call.node.args[1]
        name = call.inputs[0] if call.activations else call.constant(indices, Features())  # type: ignore[arg-type]
        written = groups.written(path, layer.embedding_dim, -1)
        options = {
            "rows": layer.num_embeddings,
            "padding_idx": layer.padding_idx,
            "scale_grad_by_freq": layer.scale_grad_by_freq,
        }
        return Step(call.name, "embedding", (name,), written, path, {**options, "raw_columns": 0})

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        options = {k: step.options[k] for k in ("padding_idx", "scale_grad_by_freq")}
        return nn.Embedding(step.options["rows"], columns_out, **options)

    def incoming(self, layer: nn.Module) -> Tensor:
        return layer.get_parameter("weight").T
