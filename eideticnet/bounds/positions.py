"""Bounds of operations along positions, and of statistics over features."""

from __future__ import annotations

from math import inf, log
from typing import Any

import torch
from torch import Tensor, nn

from eideticnet.bounds.interval import FINE, ROOM, Interval, rounding
from eideticnet.bounds.products import gated
from eideticnet.program import Step
from eideticnet.rules import RULES
from eideticnet.rules.elementwise import overload

_LISTED = {
    "chosen": """max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d
        upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        _upsample_nearest_exact3d pad constant_pad_nd amax amin max min all any sort topk select slice narrow
        squeeze unbind flip roll chunk split split_with_sizes""",
    "added": """avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        mean sum cumsum logsumexp upsample_linear1d upsample_bilinear2d upsample_trilinear3d
        _upsample_bilinear2d_aa""",
}
_SORTS = {name: sort for sort, names in _LISTED.items() for name in names.split()}
"""What hands on numbers as they are, or adds some of them; both give more for greater ones."""
_CURVED = {"upsample_bicubic2d": 2.0, "_upsample_bicubic2d_aa": 2.0, "diff": 2.0}
"""Sums with weights of both signs, and what the sum of their absolute values is at most."""


def positions(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of an operation of the table's rows ``positions`` and ``statistic``."""
    name, value = str(step.options["op"]).split(".")[1], values[0]
    if name in _DEVIATIONS:
        return _DEVIATIONS[name](_named(step), value)
    if name == "index_select":
        return chosen(step, layer, values)
    if name in ("any", "all") and value.low.dtype != torch.bool:
        value = Interval(value.least > 0, value.most > 0)
        values = [value]
    low, high = (_run(step, ends) for ends in ([v.low for v in values], [v.high for v in values]))
    if name in ("argmax", "argmin") or (step.options["index"] and not name.startswith(_PARTS)):
        return Interval.within(0, value.low.numel(), low.shape)
    if _SORTS.get(name) == "chosen":
        return Interval.over(low, high).rounded(FINE if "pad" in name else 0.0)
    if _SORTS.get(name) == "added":
        share = rounding(value.low.numel() / (low.numel() if name != "cumsum" else 1))
        return Interval.over(low, high).rounded(share, share * _cancelled(step, value))
    if name in _CURVED:
        furthest = _CURVED[name] ** _named(step).get("n", 1) * max(float(v.most.max()) for v in values)
        return Interval.within(-furthest, furthest, low.shape).rounded()
    if name == "softmax" and bool((value.low > -inf).any(_named(step)["dim"]).all()):
        return Interval.within(0, 1, low.shape).rounded(FINE)
    if name == "log_softmax":
        least = -2 * float(value.most.max()) - log(value.low.numel())
        return Interval.within(least, 0, low.shape).rounded()
    return gated(step, layer, values) if name == "glu" else None


def _run(step: Step, inputs: list[Tensor]) -> Tensor:
    return RULES[step.rule].run(step, None, inputs, False)


def _cancelled(step: Step, value: Interval) -> Tensor:
    """What is added, where that are numbers of both signs."""
    added, below = _run(step, [value.most]).abs(), _run(step, [(-value.low.double()).clamp_min(0)])
    return added if "logsumexp" in step.options["op"] else torch.where(below > 0, added, 0.0)


def _named(step: Step) -> dict[str, Any]:
    """The operation's arguments by name."""
    schema, args = overload(step.options["op"])._schema.arguments, step.options["args"]  # type: ignore[attr-defined]
    given = {a.name: args[i] if i < len(args) else a.default_value for i, a in enumerate(schema)}
    return {**given, **step.options["kwargs"]}


def _variance(o: dict[str, Any], value: Interval) -> Interval | None:
    """It is at most the sum of squares, divided by one less than there are, or as many as it says."""
    correction = o["correction"] if "correction" in o else int(o["unbiased"])
    squares = value.most.square().sum(o["dim"], o["keepdim"])
    terms = value.low.numel() / squares.numel()
    count = terms - (1 if correction is None else correction)
    if count <= 0 or not bool((4 * squares <= ROOM).all()):
        return None
    return Interval(torch.zeros_like(squares), squares / count).rounded(rounding(terms))


def _deviation(o: dict[str, Any], value: Interval) -> Interval | None:
    variance = _variance(o, value)
    return variance and Interval(variance.low.sqrt(), variance.high.sqrt()).rounded()


def _norm(o: dict[str, Any], value: Interval) -> Interval | None:
    """It grows with each number's distance from zero."""
    power = o.get("ord", o.get("p"))
    power = 2 if power is None else power
    if power not in (1, 2, inf):
        return None
    near, far = (
        torch.linalg.vector_norm(x, power, o["dim"], o["keepdim"]) for x in (value.least, value.most)
    )
    return Interval(near, far).rounded()


_DEVIATIONS = {"var": _variance, "std": _deviation, "linalg_vector_norm": _norm, "norm": _norm}
_PARTS = ("chunk", "split", "unbind", "squeeze")


def chosen(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of what is chosen by numbers: by those that are known, or else of all there is."""
    value, *numbers = values
    places = [
        number.low.long() if number.known else torch.zeros_like(number.low).long() for number in numbers
    ]
    low, high = (_run(step, [end, *places]) for end in (value.low, value.high))
    if not all(number.known for number in numbers):
        low, high = value.low.amin().expand_as(low), value.high.amax().expand_as(high)
    return Interval.over(low, high)
