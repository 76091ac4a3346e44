"""Operations that move, split and join dimensions."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eideticnet.program import Features, Run, Step
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call, batch_dim, shape_of
from eideticnet.rules.elementwise import combined
from eideticnet.rules.groups import Groups
from eideticnet.rules.narrow import NarrowRule
from eideticnet.rules.positions import PositionsRule

FLAT = "x.flatten(1), or a reshape that keeps the features together"


class ReshapeRule(Rule, name="reshape"):
    """view, reshape, flatten and unflatten, as long as every neuron's columns stay together.

    Positions may become rows, which every operation treats alone, and positions again.
    """

    def trace(self, call: Call, groups: Groups) -> Step:
        before, after = call.input_shape, call.shape
        if call.argument(0) not in call.values:
            raise call.refuse("shows a parameter in the shape of a value", "numbers for its shape")
        alone = batch_dim(before) is batch_dim(after) is None  # the same for all rows
        before, after = ((1, *before), (1, *after)) if alone else (before, after)
        rows = _rows(before[0], after[0]) if alone or batch_dim(before) == batch_dim(after) == 0 else None
        if rows is None:
            raise call.refuse("reshapes the batch dimension", FLAT)
        shape, became, were = [-1, *map(int, after[1:])][alone:], *rows
        options: dict[str, Any] = {} if became == were else {"rows": [became, were]}
        if call.features.raw:
            return Step(call.name, "reshape", call.inputs[:1], Features(), None, {"shape": shape, **options})
        before = (before[0], *([were] if were > 1 else []), *before[1:])
        after = (after[0], *([became] if became > 1 else []), *after[1:])
        hidden = len(after) - len(shape) - alone  # positions that are part of the rows
        index, features, times, parts = _reshaped(call, groups, before, after, 1 + hidden)
        where = {"index": index - hidden - alone, "from": call.features.dim, "times": times, "parts": parts}
        options = {"shape": shape, **where, **options}
        return Step(call.name, "reshape", call.inputs[:1], features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        shape = list(step.options["shape"])
        if not step.features.raw:
            o = step.options
            shape[o["index"]] = inputs[0].shape[o["from"]] * o["times"] // o["parts"]
        return inputs[0].reshape(shape)


def _rows(before: Any, after: Any) -> tuple[int, int] | None:
    """By how much the rows become more and fewer; None if that is no number."""
    if str(before) == str(after):
        return 1, 1
    ratio = after.node.expr / before.node.expr
    return (int(ratio.p), int(ratio.q)) if ratio.is_Rational else None


def _reshaped(
    call: Call, groups: Groups, before: tuple[Any, ...], after: tuple[Any, ...], first: int
) -> tuple[int, Features, int, int]:
    """Where the features are after a reshape: their index, the features, and by how much their
    dimension is multiplied and divided. They may lie from the dimension ``first`` on."""
    here = len(before) + call.features.dim
    lead, size, trail = prod(before[1:here]), int(before[here]), prod(before[here + 1 :])
    places = [(i, int(after[i]), prod(after[1:i])) for i in range(first, len(after))]
    old = call.features
    for index, new, passed in reversed(places):
        if new == size and passed == lead:
            return index, old.at(index - len(after)), 1, 1
    for index, new, passed in reversed(places):  # positions are flattened into the features
        outer, rest = divmod(lead, passed)
        inner, more = divmod(new, size * outer) if outer else (0, 1)
        if not rest and not more and inner and trail % inner == 0:
            features, where = old.repeated(inner), index - len(after)
            if old.placed and outer > 1:
                return index, groups.side_by_side(where, [features] * outer), new // size, 1
            return index, Features(where, features.runs, old.tile * outer), new // size, 1
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
    tiled = tiled or (len(sizes) == 2 and _is_shuffled(call, index))
    tiled = tiled and not _is_taken_apart(call, index + 1)
    tiles = sizes[0] if tiled else 1
    each = prod(sizes[2 if tiled else 1 :])
    features = groups.need_tile(call.features, tiles, call)
    groups.need_unit(features, each, call)
    where = index + tiled
    runs = tuple(Run(r.group, r.repeat // each) for r in features.runs)
    return where, Features(where - len(after), runs), 1, tiles * each


def _is_taken_apart(call: Call, dim: int) -> bool:
    """Whether one part is taken along ``dim`` as it is: each neuron has a query, a key and a value."""
    readers = [n for n in call.node.users if str(n.target) in ("aten.select.int", "aten.unbind.int")]
    return any((n.args[1:2] or (0,))[0] % len(call.shape) == dim for n in readers)  # type: ignore[operator]


def _is_shuffled(call: Call, index: int) -> bool:
    """Whether the two parts at ``index`` change places and are joined again: channels are shuffled."""
    for moved in call.node.users:
        if str(moved.target) == "aten.transpose.int" and sorted(moved.args[1:]) == [index, index + 1]:  # type: ignore[type-var]
            later = [*moved.users, *(again for n in moved.users for again in n.users)]
            return any(shape_of(n)[index:] == call.input_shape[index:] for n in later)
    return False


class ChannelShuffleRule(Rule, name="channel_shuffle"):
    """channel_shuffle: of each part of the channels one; all parts have the same neurons."""

    def trace(self, call: Call, groups: Groups) -> Step:
        parts, features = int(call.argument(1)), call.features
        if not features.raw:
            if features.dim != 1 - len(call.shape):
                raise call.refuse("shuffles a dimension that is not the feature dimension")
            features = groups.need_tile(features, parts, call)
            runs = tuple(Run(r.group, r.repeat * parts) for r in features.runs)
            features = Features(features.dim, runs)
        return Step(call.name, "channel_shuffle", call.inputs, features, None, {"parts": parts})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        (x,), parts = inputs, step.options["parts"]
        return x.reshape(x.shape[0], parts, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


class PermuteRule(Rule, name="permute"):
    """permute, transpose and their like: the features move to another dimension."""

    def trace(self, call: Call, groups: Groups) -> Step:
        rank = len(call.input_shape)
        sizes = [2 + i for i in range(rank)]  # all different, so the result's tell which went where
        moved = call.node.target(torch.empty(sizes, device="meta"), *call.node.args[1:])  # type: ignore[operator]
        order = [sizes.index(n) for n in moved.shape]
        features = call.features
        if not features.raw:
            features = features.at(order.index(rank + features.dim) - rank)
        return Step(call.name, "permute", call.inputs, features, None, {"order": order})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return inputs[0].permute(step.options["order"])


class UnsqueezeRule(Rule, name="unsqueeze"):
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


class PartRule(Rule, name="part"):
    """One of the equal parts that chunk or split makes of the features: queries of [queries, keys,
    values], say. All parts have the same neurons. Along other dimensions it is any operation."""

    def trace(self, call: Call, groups: Groups) -> Step:
        dim, shapes = int(call.argument(2, 0)), call.node.meta["val"]
        rank = len(call.input_shape)
        if call.features.raw or dim % rank != rank + call.features.dim:
            return PositionsRule().trace(call, groups)
        sizes = [int(value.shape[dim]) for value in shapes]
        features, index = call.features, int(call.index or 0)
        if len(set(sizes)) > 1 or not groups.divides(features, len(sizes)):
            return NarrowRule().of(call, groups, sum(sizes[:index]), sum(sizes[: index + 1]))
        features = Features(features.dim, groups.need_tile(features, len(shapes), call).runs)
        options = {"dim": call.features.dim, "parts": len(shapes), "index": call.index}
        return Step(call.name, "part", call.inputs, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        dim, columns = step.options["dim"], inputs[0].shape[step.options["dim"]] // step.options["parts"]
        return inputs[0].narrow(dim, step.options["index"] * columns, columns)


class CatRule(Rule, name="cat"):
    """Concatenation: of features (each owner's pieces lie together), or along positions."""

    joins_parts = True

    def trace(self, call: Call, groups: Groups) -> Step:
        joined = [n for n in call.argument(0) if shape_of(n) != (0,)]  # an empty cache is left out by torch
        call = replace(call, constants={n: c for n, c in call.constants.items() if n in joined})
        if any(n not in call.operands for n in joined):
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
            if len(own) < len(call.operands) or any(f.raw or f.dim != dim for f in own):
                raise call.refuse(
                    "concatenates features with a value of the raw input, or with a parameter",
                    "a layer on the input first",
                )
            names, features = call.inputs, groups.side_by_side(dim, own)
        order = [call.operands.index(n) for n in joined]
        batched = [call.operands[i] in call.values for i in order]
        if not all(batched) and batch_dim(call.shape) != 0:
            raise call.refuse("concatenates a parameter where the batch is not first", "batch_first=True")
        options = {"dim": dim, "like": batched.index(True), "expand": [not b for b in batched]}
        return Step(call.name, "cat", tuple(names[i] for i in order), features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        o = step.options
        if any(o["expand"]):  # a parameter, the same for every row
            rows = inputs[o["like"]].shape[0]
            pairs = zip(inputs, o["expand"], strict=True)
            inputs = [x.expand(rows, *x.shape[1:]) if e else x for x, e in pairs]
        return torch.cat(inputs, o["dim"])


class GluRule(Rule, name="glu"):
    """glu: one half gates the other. Halves of the features have the same neurons."""

    def trace(self, call: Call, groups: Groups) -> Step:
        dim, rank = int(call.argument(1, -1)), len(call.input_shape)
        if call.features.raw or dim % rank != rank + call.features.dim:
            return PositionsRule().trace(call, groups)
        features = Features(call.features.dim, groups.need_tile(call.features, 2, call).runs)
        return Step(call.name, "glu", call.inputs, features, None, {"dim": call.features.dim})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return F.glu(inputs[0], step.options["dim"])


class StackRule(Rule, name="stack"):
    """stack: values side by side along a new dimension, neuron by neuron."""

    def trace(self, call: Call, groups: Groups) -> Step:
        parts, rank = call.argument(0), len(call.shape)
        if any(n not in call.values for n in parts):
            raise call.refuse("stacks a value that does not come from the input", "torch.cat")
        new, features = int(call.argument(1, 0)) % rank, call.features
        for other in (call.values[n][1] for n in parts):
            if other.raw != features.raw or not (features.raw or groups.join(features, other)):
                raise call.refuse("stacks values whose features do not correspond one to one")
        if not features.raw:
            here = rank - 1 + features.dim
            features = features.at(here + (new <= here) - rank)
        names = tuple(call.values[n][0] for n in parts)
        return Step(call.name, "stack", names, features, None, {"dim": new})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return torch.stack(inputs, step.options["dim"])


class ShuffleRule(Rule, name="pixel_shuffle"):
    """pixel_shuffle and pixel_unshuffle: adjacent channels are the pixels of one neuron."""

    def trace(self, call: Call, groups: Groups) -> Step:
        factor, features = int(call.argument(1)), call.features
        options = {"factor": factor, "back": "unshuffle" in call.operation}
        if features.raw:
            return Step(call.name, "pixel_shuffle", call.inputs, features, None, options)
        if features.dim != -3:
            raise call.refuse("shuffles pixels into a dimension that is not the feature dimension")
        each = factor * factor
        if not options["back"]:
            groups.need_unit(features, each, call)
        runs = tuple(
            r.times(each) if options["back"] else Run(r.group, r.repeat // each) for r in features.runs
        )
        features = Features(features.dim, runs, features.tile)
        return Step(call.name, "pixel_shuffle", call.inputs, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        shuffle = F.pixel_unshuffle if step.options["back"] else F.pixel_shuffle
        return shuffle(inputs[0], step.options["factor"])
