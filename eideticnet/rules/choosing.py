"""Positions chosen by number: by constants, or for each row by what is computed from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from eideticnet.program import Features, Step
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call, batch_dim, counts_rows, shape_of
from eideticnet.rules.groups import Groups

ALL = "all of them, or a layer that writes fewer"


class IndexRule(Rule, name="index"):
    """x[:, :, index] with constant indices, along dimensions without neurons, or x[torch.arange(N), index]
    with what is computed from each row: its last token, say."""

    def trace(self, call: Call, groups: Groups) -> Step:
        chosen = call.argument(1)
        dims = [d for d, index in enumerate(chosen) if index is not None]
        rows = dims[0] == 0 and len(dims) > 1 and _is_every_row(call, chosen)
        dims = dims[1:] if rows else dims
        computed = any(chosen[d] not in call.constants for d in dims)
        if (computed and not rows) or dims != list(range(dims[0], dims[-1] + 1)):
            raise call.refuse(
                "selects by computed indices, or along dimensions apart",
                "constant indices, or x[torch.arange(x.shape[0]), index]",
            )
        rank, features = len(call.input_shape), call.features
        here = rank + features.dim
        if batch_dim(call.input_shape) in dims:
            raise call.refuse("works across the batch")
        if not features.raw:
            if here in dims:
                raise call.refuse("selects some of the features", ALL)
            moved = len(call.shape) - rank if here > dims[-1] else 0
            features = features.at(here + moved - len(call.shape))
        names = [call.inputs[0], *(_number(call, chosen[d]) for d in dims)]
        options: dict[str, Any] = {"dim": dims[0], "rows": rows}
        if computed:
            options["counted"] = len(shape_of(chosen[0]))
        return Step(call.name, "index", tuple(names), features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        (x, *chosen), o = inputs, step.options
        if "counted" in o:
            rows = torch.arange(x.shape[0], device=x.device)
            return x[(rows.reshape(-1, *[1] * (o["counted"] - 1)), *chosen)]
        if o["rows"]:  # the same for every row, along a first dimension of one
            chosen = [index[0] for index in chosen]
        where: tuple[Any, ...] = (*[slice(None)] * o["dim"], *chosen)
        return x[where]


def _number(call: Call, index: Node) -> str:
    return call.values[index][0] if index in call.values else call.constant(index, Features())


def _is_every_row(call: Call, chosen: list[Node]) -> bool:
    """Whether the first of these indices is the number of the row, and the others are alike for all rows or
    come from the row itself."""
    first, *others = chosen
    shape = shape_of(first)
    if call.argument(0) not in call.values or not counts_rows(first) or str(shape[0]) != _rows(call):
        return False
    return all(n is not None and len(shape_of(n)) == len(shape) and _of_the_row(call, n) for n in others)


def _of_the_row(call: Call, index: Node) -> bool:
    if index in call.values:
        return call.values[index][1].raw and str(shape_of(index)[0]) == _rows(call)
    return bool(shape_of(index)[0] == 1)


def _rows(call: Call) -> str:
    return str(call.input_shape[0])


class GatherRule(Rule, name="gather"):
    """gather, where the numbers that are taken are chosen for all neurons alike, or by each neuron for
    itself."""

    def trace(self, call: Call, groups: Groups) -> Step:
        x, dim, index = (call.argument(i) for i in range(3))
        shape, numbers = shape_of(x), shape_of(index)
        dim, rows = dim % len(shape), batch_dim(numbers)
        if dim in (batch_dim(shape), rows):
            raise call.refuse("works across the batch")
        if any(str(a) != str(b) for d, (a, b) in enumerate(zip(shape, numbers, strict=True)) if d != dim):
            raise call.refuse("takes fewer than there are along another dimension", "x.narrow first")
        features, alike = self._features(call, groups, x, index, dim)
        names = [call.constant(n, features) if n in call.constants else call.values[n][0] for n in (x, index)]
        options = {
            "dim": dim,
            "alike": alike,
            "rows": rows,
            "spread": [n in call.constants for n in (x, index)],
        }
        return Step(call.name, "gather", tuple(names), features, None, options)

    def _features(
        self, call: Call, groups: Groups, x: Node, index: Node, dim: int
    ) -> tuple[Features, int | None]:
        """Where the features lie, and the dimension along which one number holds for all of them."""
        if any(n not in call.operands for n in (x, index)):
            raise call.refuse("takes a tensor that no rule covers")
        features, chosen = (call.values[n][1] if n in call.values else Features() for n in (x, index))
        here = len(shape_of(x)) + features.dim
        if features.raw and chosen.raw:
            return features, None
        if features.raw or here == dim:
            raise call.refuse("selects some of the features", ALL)
        if not chosen.raw:
            if not groups.join(features, chosen):
                raise call.refuse("chooses by values whose features do not correspond one to one")
            return features, None
        if index in call.constants:
            return features, None
        if not _repeated(index, features.dim):
            raise call.refuse("chooses from each feature by itself", "one index for all, expanded")
        return features, here

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        (x, index), o = inputs, step.options
        if o["alike"] is not None:
            index = _as_many(index.narrow(o["alike"], 0, 1), x, o["alike"])
        constant, chosen = o["spread"]  # the same for every row
        x = _as_many(x, index, o["rows"]) if constant else x
        index = _as_many(index, x, o["rows"]) if chosen else index
        return x.gather(o["dim"], index)


def _as_many(x: Tensor, like: Tensor, dim: int) -> Tensor:
    return x.expand([like.shape[d] if d == dim else -1 for d in range(x.ndim)])


def _repeated(index: Node, dim: int) -> bool:
    """Whether it is one number along ``dim``, as often as there are features."""
    name = str(index.target).split(".")[1:2]
    if name not in (["expand"], ["expand_as"], ["repeat"]):
        return False
    source = shape_of(index.all_input_nodes[0])
    return len(source) < -dim or source[dim] == 1
