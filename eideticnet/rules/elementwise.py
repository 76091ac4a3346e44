"""Operations on each element alone, and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eideticnet.program import Features, Step
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call, shape_of
from eideticnet.rules.groups import Groups


def overload(operation: str) -> Callable[..., Any]:
    """The ATen overload named like ``"aten.relu.default"``."""
    _, packet, name = operation.split(".")
    return getattr(getattr(torch.ops.aten, packet), name)  # type: ignore[no-any-return]


def combined(call: Call, groups: Groups) -> tuple[tuple[str, ...], Features]:
    """Names and common features of a call's tensors, whose elements it combines one by one.

    The features' groups become one. A tensor without features may only be the same for all of them.
    """
    owned = [n for n in call.activations if not call.values[n][1].raw]
    features = call.values[owned[0]][1] if owned else Features()
    names = []
    for node in call.operands:
        if node in call.constants:
            names.append(call.constant(node, features))
            continue
        name, own = call.values[node]
        shape = shape_of(node)
        spread = owned and len(shape) >= -features.dim and shape[features.dim] != 1
        if own.raw and spread:
            raise call.refuse("combines features with a value of the raw input", "a layer on the input first")
        if not own.raw and not groups.join(features, own):
            raise call.refuse("joins values whose features do not correspond one to one")
        names.append(name)
    for node in owned:
        if shape_of(node)[features.dim] != call.shape[features.dim]:
            raise call.refuse("repeats one feature over many")
    return tuple(names), features


def run_literal(options: dict[str, Any], inputs: list[Tensor]) -> Any:
    """Call the ATen overload of ``options`` with its literals and ``inputs``."""
    args, kwargs = _actual(options["args"], inputs), options["kwargs"]
    return overload(options["op"])(*args, **{k: _actual(v, inputs) for k, v in kwargs.items()})


def _actual(value: Any, inputs: list[Tensor]) -> Any:
    """A literal's value; no function in a function, which would hold ``inputs`` in a cycle of references."""
    if isinstance(value, dict):
        return inputs[value["input"]] if "input" in value else getattr(torch, value["dtype"])
    return [_actual(v, inputs) for v in value] if isinstance(value, list) else value


class ElementwiseRule(Rule, name="elementwise"):
    """Functions of each element alone, of one value or of several that then form one group."""

    def trace(self, call: Call, groups: Groups) -> Step:
        names, features = combined(call, groups)
        args, kwargs = call.literals({n: i for i, n in enumerate(call.operands)})
        options = {"op": call.operation, "args": args, "kwargs": kwargs}
        return Step(call.name, "elementwise", names, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return run_literal(step.options, inputs)  # type: ignore[no-any-return]


class DropoutRule(Rule, name="dropout"):
    """Dropout, as a layer or a function, of elements or of whole channels: on while its own block
    trains, if it is on while the trunk does."""

    def trace(self, call: Call, groups: Groups) -> Step:
        if call.argument(2) and call.argument(1):
            raise call.refuse("is on in evaluation mode too", "training=self.training")
        p, on = call.twin.args[1:]
        if not on:
            return Step(call.name, "identity", call.inputs, call.features)
        options = {"p": p, "channels": "feature" in call.operation}
        if "alpha" in call.operation:
            options["alpha"] = True
        return Step(call.name, "dropout", call.inputs, call.features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        (x,), o = inputs, step.options
        if "alpha" in o:
            alpha = torch.feature_alpha_dropout if o["channels"] else torch.alpha_dropout
            return alpha(x, o["p"], training)
        return torch.feature_dropout(x, o["p"], training) if o["channels"] else F.dropout(x, o["p"], training)


class RReluRule(Rule, name="rrelu"):
    """rrelu, whose slopes are random while its own block trains, if they are while the trunk does."""

    def trace(self, call: Call, groups: Groups) -> Step:
        if call.named["training"]:
            raise call.refuse("is random in evaluation mode too", "training=self.training")
        random = len(call.twin.args) > 3 and bool(call.twin.args[3])
        options = {"lower": call.named["lower"], "upper": call.named["upper"], "random": random}
        return Step(call.name, "rrelu", call.inputs, call.features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        lower, upper = step.options["lower"], step.options["upper"]
        if training:
            return F.rrelu(inputs[0], lower, upper, step.options["random"])
        return F.leaky_relu(inputs[0], (lower + upper) / 2)  # the same, and exporters know it


class IdentityRule(Rule, name="identity"):
    """What changes no number: contiguous, clone, a cast to the same type. A mask may be cast to any."""

    def trace(self, call: Call, groups: Groups) -> Step:
        before, after = call.activations[0].meta["val"], call.node.meta["val"]
        if before.dtype != after.dtype and not before.is_floating_point():
            options = {"dtype": str(after.dtype).partition(".")[2]}
            return Step(call.name, "cast", call.inputs[:1], call.features, None, options)
        if before.dtype != after.dtype or before.shape != after.shape:
            raise call.refuse("changes the type or the shape of a value", "one type throughout")
        return Step(call.name, "identity", call.inputs[:1], call.features)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return inputs[0]


class DetachRule(Rule, name="detach"):
    """A value behind which nothing is taught: ``detach``, or a part under ``torch.no_grad()``."""

    def trace(self, call: Call, groups: Groups) -> Step:
        return Step(call.name, "detach", call.inputs, call.features)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return inputs[0].detach() if training else inputs[0]  # scores ask in evaluation mode what matters


class CastRule(Rule, name="cast"):
    """Whole numbers and truth values as numbers of another type, to the bit."""

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return inputs[0].to(getattr(torch, step.options["dtype"]))
