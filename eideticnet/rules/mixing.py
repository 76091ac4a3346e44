"""Layers that mix neurons into new ones: what they read is the prefix."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from eideticnet.calls import Call, shape_of
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
        weight, bias = call.argument(1), call.argument(2)
        path, (rows, columns) = call.layer("Linear", weight=weight, bias=bias), shape_of(weight)
        if not call.features.raw and call.features.dim != -1:
            raise call.refuse(
                "applies a Linear along a dimension that is not the feature dimension",
                "x.transpose(...) first",
            )
        groups.read_alike(path, call.features)
        written = groups.written(path, rows, -1)
        options = {"bias": bias is not None, "raw_columns": columns}
        return Step(call.name, "linear", call.inputs, written, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return nn.Linear(columns_in, columns_out, bias=step.options["bias"])


class _Conv(Rule):
    """What all convolutions share: nn.Conv1d, 2d and 3d, with the arguments of the call."""

    def _read(self, call: Call) -> tuple[str, tuple[int, int], dict[str, object]]:
        """The layer's path, how many channels its weight reads and writes, and its arguments."""
        kind, weight, bias = call.operation.split(".")[1], call.argument(1), call.argument(2)
        path = call.layer(CONVS[kind].__name__, weight=weight, bias=bias)
        written, read, *kernel = map(int, shape_of(weight))
        dims = len(kernel)
        if not call.features.raw and call.features.dim != -1 - dims:
            raise call.refuse("convolves over the feature dimension")
        padding = call.argument(4, [0] * dims)
        options = {
            "kind": kind,
            "kernel_size": kernel,
            "stride": list(call.argument(3, [1] * dims)),
            "padding": padding if isinstance(padding, str) else list(padding),
            "dilation": list(call.argument(5, [1] * dims)),
            "bias": bias is not None,
            "raw_columns": read * call.argument(6, 1),
        }
        return path, (read, written), options

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
        path, (_, written), options = self._read(call)
        groups.read_alike(path, call.features)
        features = groups.written(path, written, 1 - len(call.shape))
        return Step(call.name, "conv", call.inputs, features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return self._conv(step, columns_in, columns_out, 1)


class GroupedConvRule(_Conv):
    """A depthwise or grouped convolution: its output belongs to whoever owns its input, a group
    of channels wholly to one owner. Of the raw input it is everyone's own."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out",), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, (read, written), options = self._read(call)
        options["group"] = read
        if call.features.raw:
            options["written"] = written
            return Step(call.name, "grouped_conv", call.inputs, Features(), path, options)
        groups.need_unit(call.features, read, call)
        groups.read_alike(path, call.features)
        each = written // int(call.argument(6))
        runs = tuple(Run(r.group, r.repeat // read * each) for r in call.features.runs)
        features = Features(call.features.dim, runs, call.features.tile)
        return Step(call.name, "grouped_conv", call.inputs, features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        columns_out = step.options.get("written", columns_out)
        return self._conv(step, columns_in, columns_out, columns_in // step.options["group"])

    def axes_of(self, step: Step, name: str) -> tuple[Axis, ...]:
        return () if step.features.raw else self.axes[name]


class EmbeddingRule(Rule):
    """nn.Embedding of integers of the raw input, or of constant positions."""

    makes_neurons = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": (None, "out")}

    def trace(self, call: Call, groups: Groups) -> Step:
        weight, indices = call.node.args[:2]
        path, (rows, columns) = call.layer("Embedding", weight=weight), shape_of(weight)  # type: ignore[arg-type]
        if call.argument(4, False):
            raise call.refuse("makes sparse gradients", "sparse=False")
        padding = call.argument(2, -1)
        name = call.inputs[0] if call.activations else call.constant(indices, Features())  # type: ignore[arg-type]
        written = groups.written(path, columns, -1)
        options = {
            "rows": rows,
            "padding_idx": None if padding == -1 else padding,
            "scale_grad_by_freq": call.argument(3, False),
        }
        return Step(call.name, "embedding", (name,), written, path, {**options, "raw_columns": 0})

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        options = {k: step.options[k] for k in ("padding_idx", "scale_grad_by_freq")}
        return nn.Embedding(step.options["rows"], columns_out, **options)

    def incoming(self, layer: nn.Module) -> Tensor:
        return layer.get_parameter("weight").T
