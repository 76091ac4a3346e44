"""Operations that move, split and join dimensions, or act on those without neurons."""

from __future__ import annotations

import sys
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from eideticnet.calls import Call, batch_dim
from eideticnet.groups import Groups
from eideticnet.program import Features, Run, Step
from eideticnet.rules.base import Rule
from eideticnet.rules.elementwise import combined, run_literal

FLAT = "x.flatten(1), or a reshape that keeps the features together"


class ReshapeRule(Rule):
    """view, reshape, flatten and unflatten, as long as every neuron's columns stay together."""

    def trace(self, call: Call, groups: Groups) -> Step:
        before, after = call.input_shape, call.shape
        same_rows = call.features.raw or str(before[0]) == str(after[0])
        if batch_dim(before) != 0 or batch_dim(after) != 0 or not same_rows:
            raise call.refuse("reshapes the batch dimension", FLAT)
        if call.features.raw:
            shape = [-1, *map(int, after[1:])]
            return Step(call.name, "reshape", call.inputs, Features(), None, {"shape": shape})
        index, features, times, parts = _reshaped(call, groups, before, after)
        shape = [-1, *map(int, after[1:])]
        options = {"shape": shape, "index": index, "from": call.features.dim, "times": times, "parts": parts}
        return Step(call.name, "reshape", call.inputs, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        shape = list(step.options["shape"])
        if not step.features.raw:
            o = step.options
            shape[o["index"]] = inputs[0].shape[o["from"]] * o["times"] // o["parts"]
        return inputs[0].reshape(shape)


def _reshaped(
    call: Call, groups: Groups, before: tuple[Any, ...], after: tuple[Any, ...]
) -> tuple[int, Features, int, int]:
    """Where the features are after a reshape: their index, the features, and by how much their
    dimension is multiplied and divided."""
    here = len(before) + call.features.dim
    lead, size, trail = prod(before[1:here]), int(before[here]), prod(before[here + 1 :])
    places = [(i, int(after[i]), prod(after[1:i])) for i in range(1, len(after))]
    old = call.features
    for index, new, passed in reversed(places):
        if new == size and passed == lead:
            return index, old.at(index - len(after)), 1, 1
    for index, new, passed in reversed(places):  # positions are flattened into the features
        outer, rest = divmod(lead, passed)
        inner, more = divmod(new, size * outer) if outer else (0, 1)
        if not rest and not more and inner and trail % inner == 0:
            runs = tuple(Run(r.group, r.repeat * inner) for r in old.runs)
            return index, Features(index - len(after), runs, old.tile * outer), new // size, 1
    for index, new, passed in reversed(places):
        if passed == lead and 1 < new < size:
            return _split(call, groups, after, index, size)
    raise call.refuse("reshapes features in a way that has no rule", FLAT)


def _split(
    call: Call, groups: Groups, after: tuple[Any, ...], index: int, size: int
) -> tuple[int, Features, int, int]:
    """Features split into neurons and the columns of each, or into tiles of these."""
    sizes, end = list[int](), index
    while end < len(after) and prod(sizes) < size:
        sizes.append(int(after[end]))
        end += 1
    if prod(sizes) != size:
        raise call.refuse("reshapes features in a way that has no rule", FLAT)
    tiled = call.features.tile == sizes[0] > 1 or (len(sizes) == 3 and len(call.input_shape) > 2)
    tiles = sizes[0] if tiled else 1
    each = prod(sizes[2 if tiled else 1 :])
    groups.need_tile(call.features, tiles, call)
    groups.need_unit(call.features, each, call)
    where = index + tiled
    runs = tuple(Run(r.group, r.repeat // each) for r in call.features.runs)
    return where, Features(where - len(after), runs), 1, tiles * each


class PermuteRule(Rule):
    """permute and transpose: the features move to another dimension."""

    def trace(self, call: Call, groups: Groups) -> Step:
        rank = len(call.input_shape)
        order = list(range(rank))
        if "permute" in call.operation:
            order = [int(d) % rank for d in call.argument(1)]
        else:
            a, b = (int(call.argument(i)) % rank for i in (1, 2)) if "transpose" in call.operation else (0, 1)
            order[a], order[b] = order[b], order[a]
        features = call.features
        if not features.raw:
            features = features.at(order.index(rank + features.dim) - rank)
        return Step(call.name, "permute", call.inputs, features, None, {"order": order})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return inputs[0].permute(step.options["order"])


class PositionsRule(Rule):
    """Operations along dimensions without neurons: pooling, padding, softmax, mean, selecting."""

    def trace(self, call: Call, groups: Groups) -> Step:
        rank = len(call.input_shape)
        touched, change = _touched(call, rank)
        if call.operation == "aten.slice.Tensor" and _is_whole(call):
            touched = []
        here = rank + call.features.dim
        if not call.features.raw and here in touched:
            raise call.refuse("works across the feature dimension", "it along another dimension")
        if batch_dim(call.input_shape) in touched:
            raise call.refuse("works across the batch")
        features = call.features
        if not features.raw:
            here += sum(change for d in touched if d < here)
            features = features.at(here - len(call.shape))
        args, kwargs = call.literals({call.activations[0]: 0})
        if "squeeze" in call.operation:
            args[1:] = [touched]  # a dimension that is not one stays, also where an owner has one neuron
        operation = "aten.squeeze.dims" if "squeeze" in call.operation else call.operation
        options = {"op": operation, "args": args, "kwargs": kwargs, "index": call.index}
        return Step(call.name, "positions", call.inputs, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        out = run_literal(step.options, inputs)
        return out if step.options["index"] is None else out[step.options["index"]]  # type: ignore[no-any-return]


def _is_whole(call: Call) -> bool:
    """Whether a slice takes everything, as x[:] does."""
    return (
        call.argument(2) in (0, None) and call.argument(3) in (sys.maxsize, None) and call.argument(4, 1) == 1
    )


def _touched(call: Call, rank: int) -> tuple[list[int], int]:
    """Dimensions that an operation works on, and how many each of them becomes more (or less)."""
    name, first = call.operation.split(".")[1], call.argument(1, 0)
    trailing = {"1": 1, "2": 2, "3": 3}
    if name in ("chunk", "split", "split_with_sizes"):
        first = call.argument(2, 0)
    if first is None or first == []:
        return list(range(rank)), 0
    if name in ("pad", "constant_pad_nd"):
        return list(range(rank - len(first) // 2, rank)), 0
    if "pool" in name or "upsample" in name:
        spatial = next(n for d, n in trailing.items() if f"{d}d" in name)
        return list(range(rank - spatial, rank)), 0
    dims = [int(d) % rank for d in (first if isinstance(first, list | tuple) else [first])]
    if name in ("select", "unbind"):
        return dims, -1
    if name == "squeeze":
        return [d for d in dims if call.input_shape[d] == 1], -1
    if name in ("mean", "sum", "amax", "amin"):
        return dims, 0 if call.argument(2, False) else -1
    return dims, 0


class UnsqueezeRule(Rule):
    """A new dimension of size one."""

    def trace(self, call: Call, groups: Groups) -> Step:
        rank, new = len(call.input_shape), int(call.argument(1)) % len(call.shape)
        features = call.features
        if not features.raw:
            here = rank + features.dim
            features = features.at(here + (new <= here) - rank - 1)
        return Step(call.name, "unsqueeze", call.inputs, features, None, {"dim": new})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return inputs[0].unsqueeze(step.options["dim"])


class PartRule(Rule):
    """One of the equal parts that chunk or split makes of the features: queries of [queries, keys,
    values], say. All parts have the same neurons. Along other dimensions it is any operation."""

    def trace(self, call: Call, groups: Groups) -> Step:
        dim, shapes = int(call.argument(2, 0)), call.node.meta["val"]
        rank = len(call.input_shape)
        if call.features.raw or dim % rank != rank + call.features.dim:
            return PositionsRule().trace(call, groups)
        sizes = {int(value.shape[dim]) for value in shapes}
        if len(sizes) > 1:
            raise call.refuse("splits features into unequal parts", "a layer for each part")
        groups.need_tile(call.features, len(shapes), call)
        features = Features(call.features.dim, call.features.runs)
        options = {"dim": call.features.dim, "parts": len(shapes), "index": call.index}
        return Step(call.name, "part", call.inputs, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        dim, columns = step.options["dim"], inputs[0].shape[step.options["dim"]] // step.options["parts"]
        return inputs[0].narrow(dim, step.options["index"] * columns, columns)


class CatRule(Rule):
    """Concatenation: of features (each owner's pieces lie together), or along positions."""

    joins_parts = True

    def trace(self, call: Call, groups: Groups) -> Step:
        if any(n not in call.operands for n in call.argument(0)):
            raise call.refuse("concatenates a value that no rule covers", "a parameter or a layer")
        dim = int(call.argument(1, 0))
        dim = dim if dim < 0 else dim - len(call.shape)
        own = [call.values[n][1] for n in call.activations]
        along = next((f.dim for f in own if not f.raw), None)
        if dim + len(call.shape) == batch_dim(call.shape):
            raise call.refuse("concatenates along the batch")
        if along is None or dim != along:
            names, features = combined(call, groups)
        else:
            if len(own) < len(call.operands) or any(f.raw or f.dim != dim or f.tile > 1 for f in own):
                raise call.refuse(
                    "concatenates features with a value of the raw input, or with a parameter",
                    "a layer on the input first",
                )
            names, features = call.inputs, Features(dim, tuple(r for f in own for r in f.runs))
        order = [call.operands.index(n) for n in call.argument(0)]
        batched = [call.operands[i] in call.values for i in order]
        if not all(batched) and batch_dim(call.shape) != 0:
            raise call.refuse("concatenates a parameter where the batch is not first", "batch_first=True")
        options = {"dim": dim, "like": batched.index(True), "expand": [not b for b in batched]}
        return Step(call.name, "cat", tuple(names[i] for i in order), features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        o = step.options
        if any(o["expand"]):  # a parameter, the same for every row
            rows = inputs[o["like"]].shape[0]
            inputs = [
                x.expand(rows, *x.shape[1:]) if e else x for x, e in zip(inputs, o["expand"], strict=True)
            ]
        return torch.cat(inputs, o["dim"])
