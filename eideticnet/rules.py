"""The one table of rules: how each operation of a trunk treats neurons.

A rule says where an operation's features lie and which groups it joins (``trace``), which stock
layer one block gets for it (``build``), and how it runs on one block's piece (``run``). A layer
whose rule ``reads_prefix`` sees what earlier owners own beside the block's own piece; all other
operations see the own piece alone, which is what keeps an earlier task's bits when a block is
appended. An operation that is not in the table is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eideticnet.calls import Call, Groups
from eideticnet.program import Features, Program, Run, Step

Axis = Literal["in", "out"] | None


class Rule:
    """One row of the table. ``axes`` names, for each tensor of the layer, the axes that follow
    the columns read ("in") or written ("out")."""

    reads_prefix: ClassVar[bool] = False
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {}

    def trace(self, call: Call, groups: Groups) -> Step:
        raise NotImplementedError

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        """The stock layer of a block that reads and writes so many columns; None if it has none."""
        return None

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        assert layer is not None
        return layer(*inputs)  # type: ignore[no-any-return]

    def shrink(self, step: Step, layer: nn.Module, keep_in: Tensor, keep_out: Tensor) -> nn.Module:
        """A new layer with only the kept columns; ``keep_*`` are sorted index vectors."""
        with torch.device("meta"):  # no memory, and no random numbers drawn for weights to replace
            smaller = self.build(step, len(keep_in), len(keep_out))
        assert smaller is not None
        kept = {"in": keep_in, "out": keep_out}
        state = {}
        for name, tensor in layer.state_dict().items():
            tensor = tensor.clone()
            for dim, axis in enumerate(self.axes[name]):
                if axis is not None:
                    tensor = tensor.index_select(dim, kept[axis].to(tensor.device))
            state[name] = tensor
        smaller.load_state_dict(state, assign=True)
        return smaller.train(layer.training)


class LinearRule(Rule):
    """nn.Linear: the only operation here that mixes neurons, so the only one that reads the
    prefix; its output is a new group."""

    reads_prefix = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out", "in"), "bias": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(nn.Linear)
        features, last = call.features[0], len(call.shape) - 1
        if not features.raw and features.dim != last:
            raise call.refuse("applies a Linear along a dimension that is not the feature dimension")
        written = Features(last, (Run(groups.of_layer(path, features, layer.out_features)),))
        options = {"bias": layer.bias is not None, "raw_columns": layer.in_features}
        return Step(call.name, "linear", call.inputs, written, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return nn.Linear(columns_in, columns_out, bias=step.options["bias"])


class TapsRule(LinearRule):
    """A Linear over several values side by side, each averaged over what are not its features: the
    head of a router that reads all layers. No trunk has it; ``with_taps`` puts it into a program."""

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        pairs = zip(inputs, step.options["dims"], strict=True)
        flat = [x if x.ndim == 2 else x.movedim(dim, 1).flatten(2).mean(2) for x, dim in pairs]
        return super().run(step, layer, [torch.cat(flat, 1)], training)


class BatchNormRule(Rule):
    """nn.BatchNorm1d: one stock layer for each block, on the block's own piece."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {
        **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ("out",)),
        "num_batches_tracked": (),
    }

    def trace(self, call: Call, groups: Groups) -> Step:
        path, layer = call.stock_layer(nn.BatchNorm1d)
        if not layer.track_running_stats:
            raise call.refuse(
                "normalises with the statistics of the batch that it is given", "track_running_stats=True"
            )
        if not call.features[0].raw and call.features[0].dim != 1:
            raise call.refuse("normalises over a dimension that is not the feature dimension")
        groups.read_alike(path, call.features[0])
        options = {
            "eps": layer.eps,
            "momentum": layer.momentum,
            "affine": layer.affine,
            "raw_columns": layer.num_features,
        }
        return Step(call.name, "batch_norm", call.inputs, call.features[0], path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        options = {k: step.options[k] for k in ("eps", "momentum", "affine")}
        return nn.BatchNorm1d(columns_out, **options)


class DropoutRule(Rule):
    """Dropout, as a layer or a function: on while its own block trains, whatever the trunk said."""

    def trace(self, call: Call, groups: Groups) -> Step:
        return Step(call.name, "dropout", call.inputs, call.features[0], None, {"p": call.node.args[1]})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return F.dropout(inputs[0], step.options["p"], training)


class FlattenRule(Rule):
    """Flattening to (N, columns): of raw inputs, or of features that are flat already."""

    def trace(self, call: Call, groups: Groups) -> Step:
        if len(call.shape) != 2 or not (call.features[0].raw or call.same_shape):
            raise call.refuse("reshapes features in a way that has no rule", "flatten(1)")
        return Step(call.name, "flatten", call.inputs, call.features[0])

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return inputs[0].flatten(1)


class ElementwiseRule(Rule):
    """Functions of each element alone, of one value or of several that then form one group."""

    def trace(self, call: Call, groups: Groups) -> Step:
        features = call.features[0]
        for other in call.features[1:]:
            if not call.same_shape or not groups.join(features, other):
                raise call.refuse("joins values whose features do not correspond one to one")
        options = {"op": call.operation, "args": call.arguments(), "kwargs": dict(call.node.kwargs)}
        return Step(call.name, "elementwise", call.inputs, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        args = [inputs[a["input"]] if isinstance(a, dict) else a for a in step.options["args"]]
        return overload(step.options["op"])(*args, **step.options["kwargs"])  # type: ignore[no-any-return]


def overload(operation: str) -> Callable[..., Any]:
    """The ATen overload named like ``"aten.relu.default"``."""
    _, packet, name = operation.split(".")
    return getattr(getattr(torch.ops.aten, packet), name)  # type: ignore[no-any-return]


_ELEMENTWISE = """relu.default relu6.default leaky_relu.default elu.default selu.default celu.default
gelu.default silu.default mish.default hardtanh.default hardswish.default hardsigmoid.default
softplus.default sigmoid.default tanh.default exp.default abs.default neg.default clamp.default
add.Tensor sub.Tensor mul.Tensor"""

RULES: dict[str, Rule] = {
    "linear": LinearRule(),
    "taps": TapsRule(),
    "batch_norm": BatchNormRule(),
    "dropout": DropoutRule(),
    "flatten": FlattenRule(),
    "elementwise": ElementwiseRule(),
}

OPERATIONS: dict[str, str] = {
    "aten.linear.default": "linear",
    "aten.batch_norm.default": "batch_norm",
    "aten.dropout.default": "dropout",
    "aten.flatten.using_ints": "flatten",
    "aten.view.default": "flatten",
    "aten.reshape.default": "flatten",
    **{f"aten.{name}": "elementwise" for name in _ELEMENTWISE.split()},
}


def with_taps(program: Program) -> Program:
    """``program`` with a head that reads, beside the features, every value that a layer reads."""
    *steps, head = program.steps
    read = [n for s in steps if RULES[s.rule].reads_prefix for n in s.inputs]
    inputs = tuple(dict.fromkeys(n for n in (*read, *head.inputs) if not program.features[n].raw))
    options = {**head.options, "dims": [program.features[n].dim for n in inputs]}
    return Program((*steps, replace(head, rule="taps", inputs=inputs, options=options)), program.groups)


def check_program(program: Program) -> None:
    """Raise ``ValueError`` unless every step is one that the table could have written."""
    for step in program.steps:
        known = step.rule in RULES
        if known and step.rule == "elementwise":
            known = OPERATIONS.get(step.options["op"]) == "elementwise"
        if not known:
            raise ValueError(f"step {step.name!r} runs an operation that no rule covers")


def rule_for(call: Call) -> Rule:
    """The table's row for an operation; ``UnsupportedError`` if there is none."""
    if call.operation not in OPERATIONS:
        raise call.refuse("is an operation that no rule covers")
    return RULES[OPERATIONS[call.operation]]
