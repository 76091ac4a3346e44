"""What a trunk does to each element only while it trains: noise, a path that is dropped for a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from eideticnet.program import Step
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import writes
from eideticnet.rules.elementwise import overload
from eideticnet.seeding import drawing

_NAMED = """bernoulli.default bernoulli.p bernoulli_.float rand.default rand_like.default randn.default
    randn_like.default uniform_.default normal_.default new_empty.default new_ones.default new_zeros.default
    new_full.default empty.memory_format empty_like.default ones.default ones_like.default zeros.default
    zeros_like.default full.default full_like.default floor.default floor_.default lt.Scalar gt.Scalar
    le.Scalar ge.Scalar to.dtype dropout.default feature_dropout.default alpha_dropout.default detach.default
    relu.default sigmoid.default tanh.default exp.default abs.default neg.default clamp.default
    clamp_min.default clamp_max.default log.default add.Tensor sub.Tensor mul.Tensor div.Tensor rsub.Scalar
    pow.Tensor_Scalar add_.Tensor sub_.Tensor mul_.Tensor div_.Tensor div_.Scalar mul_.Scalar
    where.self masked_fill.Scalar logical_not.default bitwise_not.default lt.Tensor gt.Tensor
    contiguous.default clone.default"""
LOCAL = {f"aten.{name}" for name in _NAMED.split()}
_ELSEWHERE = ("device", "layout", "pin_memory", "memory_format")


class TrainingRule(Rule, name="training"):
    """Element-wise operations on one value, in order, while the block trains; nothing afterwards."""

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        if not training:
            return inputs[0]
        values = list(inputs)
        for call in step.options["calls"]:
            args, kwargs = (_actual(call[part], values) for part in ("args", "kwargs"))
            function = overload(call["op"])
            if not any(isinstance(a, Tensor) for a in args):  # it makes a tensor from nothing
                kwargs = {"dtype": values[0].dtype, **kwargs, "device": values[0].device}
            with drawing():
                values.append(function(*args, **kwargs))
        return values[-1]


def in_training(nodes: Sequence[Node], base: Node) -> list[dict[str, Any]] | None:
    """The operations ``nodes`` on ``base`` as JSON; None if they are not only about each element."""
    places = {base: 0, **{node: i for i, node in enumerate(nodes, 1)}}
    calls = []
    try:
        for node in nodes:
            if str(node.target) not in LOCAL or (writes(node) and node.args[0] is base):
                return None
            kwargs = {k: _literal(v, places, base) for k, v in node.kwargs.items() if k not in _ELSEWHERE}
            args = [_literal(v, places, base) for v in node.args]
            calls.append({"op": str(node.target), "args": args, "kwargs": kwargs})
    except LookupError:
        return None
    return calls if _shape(nodes[-1]) == _shape(base) else None


def _literal(value: Any, places: dict[Node, int], base: Node) -> Any:
    if isinstance(value, Node):
        return {"value": places[value]}
    if isinstance(value, list | tuple):  # a shape: a block has other rows and neurons
        sizes = [str(v.meta["val"] if isinstance(v, Node) else v) for v in value]
        like = _shape(base)
        if len(sizes) != len(like) or any(a not in ("1", b) for a, b in zip(sizes, like, strict=True)):
            raise LookupError
        return [1 if size == "1" else {"size": d} for d, size in enumerate(sizes)]
    if isinstance(value, torch.dtype):
        same = value == base.meta["val"].dtype
        return {"type": "" if same else str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float):
        return value
    raise LookupError


def _actual(value: Any, values: list[Tensor]) -> Any:
    match value:
        case list():
            return [_actual(v, values) for v in value]
        case {"value": place}:
            return values[place]
        case {"size": dim}:
            return values[0].shape[dim]
        case {"type": name}:
            return getattr(torch, name) if name else values[0].dtype
        case dict():
            return {k: _actual(v, values) for k, v in value.items()}
    return value


def _shape(node: Node) -> list[str]:
    return [str(n) for n in node.meta["val"].shape]
