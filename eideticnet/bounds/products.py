"""Bounds of products of values: attention, ``matmul``, ``einsum``, gates."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn

from eideticnet.bounds.elementwise import at_corners
from eideticnet.bounds.interval import FINE, ROOM, ROUNDING, Interval, rounding
from eideticnet.program import Step
from eideticnet.rules import RULES
from eideticnet.rules.products import spread


def multiplied(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of sums of products: those of the middles, and how far around them the products may be."""

    def run(inputs: list[Tensor]) -> Tensor:
        return RULES[step.rule].run(step, None, inputs, False)

    most, middles = run([value.most for value in values]), [value.centre for value in values]
    centre, nearest = run(middles), run([middle.abs() for middle in middles])
    terms = float(run([torch.ones_like(middle) for middle in middles]).max())
    radius = most - nearest + rounding(terms) * most
    return Interval(centre - radius, centre + radius)


def attention(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of means of the values, whatever they are weighted by."""
    o = step.options
    lows, highs = (spread(o, ends) for ends in ([v.low for v in values], [v.high for v in values]))
    query, key, value, *mask = (Interval(*ends) for ends in zip(lows, highs, strict=True))
    scores = (
        query.low.shape[-1] * float(query.most.max()) * float(key.most.max()) * max(1.0, o["scale"] or 1.0)
    )
    if not scores <= ROOM or (mask and not _shows_some(mask[0])):
        return None
    low, high = value.low.amin(-2, keepdim=True), value.high.amax(-2, keepdim=True)
    if o.get("gqa"):
        times = query.low.shape[-3] // value.low.shape[-3]
        low, high = low.repeat_interleave(times, -3), high.repeat_interleave(times, -3)
    shape = (*query.low.shape[:-1], low.shape[-1])
    means = Interval(low.expand(shape), high.expand(shape))
    return means.rounded(0.0, ROUNDING * means.most)


def _shows_some(mask: Interval) -> bool:
    """Whether each query sees a key for sure."""
    sees = mask.low if mask.low.dtype == torch.bool else mask.low > -inf
    return bool(sees.any(-1).all())


def gated(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of ``glu``: one half times what is between 0 and 1."""
    (value,), o = values, step.options
    dim = o["dim"] if "dim" in o else ([*o["args"], -1])[1]
    (low, least), (high, most) = value.low.chunk(2, dim), value.high.chunk(2, dim)
    halves = [Interval(low, high), Interval(least.sigmoid(), most.sigmoid())]
    return at_corners(torch.mul, halves).rounded(FINE, FINE * halves[0].most)
