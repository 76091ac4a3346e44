"""Layers that mix neurons into new ones: what they read is the prefix."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from eideticnet.program import Features, Run, Step
from eideticnet.rules.base import Axis, Rule
from eideticnet.rules.calls import Call, shape_of
from eideticnet.rules.given import shown
from eideticnet.rules.groups import Groups
from eideticnet.rules.narrow import NarrowRule
from eideticnet.rules.own import OwnRule

_CONVS: dict[str, type[Any]] = {
    **{f"conv{d}d": getattr(nn, f"Conv{d}d") for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": getattr(nn, f"ConvTranspose{d}d") for d in (1, 2, 3)},
}


class LinearRule(Rule, name="linear"):
    """nn.Linear along the features; what it writes is a new group. Along positions it is everyone's own."""

    reads_prefix = True
    makes_neurons = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out", "in"), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        turned = "addmm" in call.operation  # as in GPT-2: bias, input, and the weight (in, out)
        weight, bias = (call.argument(i) for i in ((2, 0) if turned else (1, 2)))
        if turned and (call.node.kwargs or call.features.dim != -1):
            raise call.refuse("is no layer on the features", "nn.Linear")
        return self.of(call, groups, weight, bias, turned)

    def of(self, call: Call, groups: Groups, weight: Node, bias: Node | None, turned: bool) -> Step:
        """The step of a product with ``weight``, (out, in) or ``turned``, that may be a bare parameter."""
        if bare := _bare(call, weight, bias):
            path = bare["weight"][0]
        else:
            path = call.layer("Linear", weight=weight, bias=bias)
        rows, columns = reversed(shape_of(weight)) if turned else shape_of(weight)
        if not call.features.raw and call.features.dim != -1:
            if bare:
                raise call.refuse("mixes positions by a bare parameter", "nn.Linear")
            arguments = {"in_features": columns, "out_features": rows, "bias": bias is not None}
            return OwnRule().step(call, path, "Linear", **arguments)
        groups.read_alike(path, call.features)
        options: dict[str, Any] = {"bias": bias is not None, "raw_columns": columns}
        options |= {"turned": True} if turned else {}
        options |= {"bare": bare} if bare else {}
        if rows == 1 and groups.layouts.may_share(path):
            return Step(call.name, "weighting", call.inputs, Features(), path, options)
        written = groups.written(path, rows, -1)
        return Step(call.name, "linear", call.inputs, written, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return nn.Linear(columns_in, columns_out, bias=step.options["bias"])

    def adopt(self, step: Step, layer: nn.Module, trunk: nn.Module) -> dict[str, Tensor]:
        if bare := step.options.get("bare"):
            given = {name: (trunk.get_parameter(path).detach(), by) for name, (path, by) in bare.items()}
            tensors = {name: shown(*parameter) for name, parameter in given.items()}
        else:
            tensors = super().adopt(step, layer, trunk)
        return {**tensors, "weight": tensors["weight"].T} if "turned" in step.options else tensors


_STOCK = (nn.Linear, nn.Embedding, _ConvNd, nn.RNNBase)


def _bare(call: Call, weight: Node, bias: Node | None) -> dict[str, tuple[str, str]]:
    """For each tensor of a layer that is written by hand the parameter, and how it is shown; nothing if they
    are a module's own weight and bias."""
    given = {"weight": weight, **({"bias": bias} if bias is not None else {})}
    owners = {call.weights.get(n.name, "").removesuffix(f".{name}") for name, n in given.items()}
    if len(owners) == 1 and not owners & {"", *(call.weights.get(n.name, "") for n in given.values())}:
        return {}
    found = {name: call.constants.get(n) for name, n in given.items()}
    whole = {
        name: (str(c.parameter), c.shown_by)
        for name, c in found.items()
        if c is not None and c.parameter and c.shown_by is not None
        if c.value.numel() == call.trunk.get_parameter(c.parameter).numel()
        if not isinstance(call.trunk.get_submodule(c.parameter.rpartition(".")[0]), _STOCK)
    }
    return whole if len(whole) == len(given) and weight.meta["val"].ndim == 2 else {}


class WeightingRule(LinearRule, name="weighting"):
    """A Linear to one number that weighs all features (attention pooling, a gate): everyone has one of
    its own, which sees what its owner reads."""

    makes_neurons = False
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": (None, "in"), "bias": (None,)}

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return super().build(step, columns_in, 1)


class _Conv(Rule):
    """What all convolutions share, transposed or not, with the arguments of the call."""

    def _read(self, call: Call) -> tuple[str, tuple[int, int], dict[str, Any]]:
        """The layer's path, how many channels a group reads and all write, and its arguments."""
        kind, weight, bias = call.operation.split(".")[1], call.argument(1), call.argument(2)
        path = call.layer(_CONVS[kind].__name__, weight=weight, bias=bias)
        first, second, *kernel = map(int, shape_of(weight))
        dims, groups, back = len(kernel), call.argument(6, 1), "transpose" in kind
        read, written = (first // groups, second * groups) if back else (second, first)
        padding = call.argument(4, [0] * dims)
        options = {
            "kind": kind,
            "kernel_size": kernel,
            "stride": list(call.argument(3, [1] * dims)),
            "padding": padding if isinstance(padding, str) else list(padding),
            "dilation": list(call.argument(7 if back else 5, [1] * dims)),
            "bias": bias is not None,
            "raw_columns": read * groups,
        }
        if back:
            options["output_padding"] = list(call.argument(5, [0] * dims))
        return path, (read, written), options

    def _along_positions(self, call: Call, path: str, written: int, options: dict[str, Any]) -> Step:
        """A convolution whose channels are positions: it may look at one feature at a time."""
        looks = [options[k] for k in ("kernel_size", "stride", "dilation", "padding")]
        dims = len(options["kernel_size"])
        if looks != [[1] * dims, [1] * dims, [1] * dims, [0] * dims] or call.argument(6, 1) > 1:
            raise call.refuse(
                "convolves over the feature dimension", "kernel_size=1, or channels of features"
            )
        kind = _CONVS[options["kind"]].__name__
        arguments = {"in_channels": options["raw_columns"], "out_channels": written, "bias": options["bias"]}
        return OwnRule().step(call, path, kind, kernel_size=options["kernel_size"], **arguments)

    def _conv(self, step: Step, columns_in: int, columns_out: int, groups: int) -> nn.Module:
        options = {k: step.options[k] for k in _CONV_ARGUMENTS if k in step.options}
        padding = options["padding"]
        options["padding"] = padding if isinstance(padding, str) else tuple(padding)
        layer: nn.Module = _CONVS[step.options["kind"]](columns_in, columns_out, groups=groups, **options)
        return layer


_CONV_ARGUMENTS = ("kernel_size", "stride", "padding", "output_padding", "dilation", "bias")


class ConvRule(_Conv, name="conv"):
    """A convolution of all channels; what it writes is a new group."""

    reads_prefix = True
    makes_neurons = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out", "in"), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, (_, written), options = self._read(call)
        if not call.features.raw and call.features.dim != 1 - len(call.shape):
            return self._along_positions(call, path, written, options)
        groups.read_alike(path, call.features)
        if written == 1 and groups.layouts.may_share(path):
            return Step(call.name, "conv_weighting", call.inputs, Features(), path, options)
        features = groups.written(path, written, 1 - len(call.shape))
        return Step(call.name, "conv", call.inputs, features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return self._conv(step, columns_in, columns_out, 1)

    def axes_of(self, step: Step, name: str) -> tuple[Axis, ...]:
        back = "transpose" in step.options["kind"] and name == "weight"
        return ("in", "out") if back else self.axes[name]

    def incoming(self, layer: nn.Module) -> Tensor:
        weight = layer.get_parameter("weight")
        return (weight.transpose(0, 1) if isinstance(layer, _ConvTransposeNd) else weight).flatten(1)


class ConvWeightingRule(ConvRule, name="conv_weighting"):
    """A convolution to one channel by which all features are multiplied (spatial attention): everyone has
    one of its own, which sees what its owner reads."""

    makes_neurons = False

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return super().build(step, columns_in, 1)

    def axes_of(self, step: Step, name: str) -> tuple[Axis, ...]:
        return tuple(axis if axis == "in" else None for axis in super().axes_of(step, name))


class GroupedConvRule(_Conv, name="grouped_conv"):
    """A depthwise or grouped convolution: its output belongs to the owner of its input, a group
    of channels wholly to one owner. Of the raw input it is everyone's own."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out",), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, (read, written), options = self._read(call)
        options["group"] = read
        if call.features.raw:
            options["written"] = written
            return Step(call.name, "grouped_conv", call.inputs, Features(), path, options)
        if call.features.dim != 1 - len(call.shape):
            raise call.refuse("convolves over the feature dimension")
        if groups.layouts.shuffled and read > 1:
            return ConvPartRule().all_of(call, groups)
        groups.need_unit(call.features, read, call)
        groups.read_alike(path, call.features)
        each = written // int(call.argument(6))
        runs = tuple(
            r.times(each) if read == 1 else Run(r.group, r.repeat // read * each) for r in call.features.runs
        )
        features = Features(call.features.dim, runs, call.features.tile)
        return Step(call.name, "grouped_conv", call.inputs, features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        columns_out = step.options.get("written", columns_out)
        return self._conv(step, columns_in, columns_out, columns_in // step.options["group"])

    def axes_of(self, step: Step, name: str) -> tuple[Axis, ...]:
        if step.features.raw:
            return ()
        back = "transpose" in step.options["kind"] and name == "weight"
        return ("in",) if back else self.axes[name]


class ConvPartRule(ConvRule, name="conv_part"):
    """One group of a grouped convolution, where channels are shuffled: a convolution of some columns, which
    writes neurons of its own."""

    def all_of(self, call: Call, groups: Groups) -> Step:
        """The steps for all groups, side by side."""
        path, (read, written), options = self._read(call)
        number, dim = int(call.argument(6)), call.features.dim
        options |= {"raw_columns": read, "parts": number}
        groups.separate(call.features, [range(k * read, (k + 1) * read) for k in range(number)])
        names, features = list[str](), list[Features]()
        for k in range(number):
            name, part = f"{call.name}_{k}", f"{path}.{k}"
            source = NarrowRule().part(call, groups, f"{name}_read", k * read, (k + 1) * read)
            groups.read_alike(part, source.features)
            features.append(groups.written(part, written // number, dim))
            call.extra.append(Step(name, "conv_part", (source.name,), features[-1], part, options))
            names.append(name)
        together = {"dim": dim, "like": 0, "expand": [False] * number}
        return Step(call.name, "cat", tuple(names), groups.side_by_side(dim, features), None, together)

    def adopt(self, step: Step, layer: nn.Module, trunk: nn.Module) -> dict[str, Tensor]:
        path, _, k = str(step.layer).rpartition(".")
        whole, parts = trunk.get_submodule(path), step.options["parts"]
        return {name: whole.get_parameter(name).chunk(parts)[int(k)] for name in layer.state_dict()}


class EmbeddingRule(Rule, name="embedding"):
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
