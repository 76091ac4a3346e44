"""What a head multiplies by zero: it must be finite, for zero times infinity is no number.

What an old head needs stands in its digest, so it overflows in every version alike or in none. The rest,
lanes of newcomers and free slots, is *idle* for the old heads and has to be proven finite. It may also turn
the -0.0 of a sum into 0.0, so nothing behind it may tell these two apart. Imports neither torch nor
eideticnet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from onnx import NodeProto

from eideticnet.export.graph.intervals import LEAST, Interval, intervals
from eideticnet.export.graph.lanes import Needs, needs
from eideticnet.export.graph.reach import Mask
from eideticnet.export.graph.values import Values

_TELLING = {"Div": 1, "Reciprocal": 0}
"""Operators to which -0.0 and 0.0 are not the same, and the input that this is true of."""


def hazards(
    values: Values, heads: Iterable[str], low: float | None, high: float | None
) -> Iterator[tuple[str, str]]:
    """Of these heads, which are what earlier versions promised, those that something idle may change, and a
    sentence that says what. Inputs lie from ``low`` to ``high``."""
    found = {head: needs(values, head) for head in heads}
    kept: dict[str, Mask] = {}
    for of in found.values():
        for name, mask in of.needed.items():
            kept[name] = kept[name] | mask if name in kept else mask
    bounds: dict[str, Interval] | None = None
    for head, of in found.items():
        idle = {name: mask & ~kept.get(name, np.False_) for name, mask in of.read.items()}
        idle = {name: mask for name, mask in idle.items() if mask.any()}
        if idle:
            bounds = bounds or intervals(values, low, high)
            if said := _overflowing(values, idle, bounds) or _telling(values, of, idle, bounds):
                yield head, said


def _overflowing(values: Values, idle: Mapping[str, Mask], bounds: Mapping[str, Interval]) -> str:
    for name, mask in idle.items():
        finite = np.isfinite(bounds[name][0]) & np.isfinite(bounds[name][1])
        if (mask & ~finite).any():
            return f"it multiplies elements of {name!r} by zero that may be infinite or no number"
    return ""


def _telling(values: Values, of: Needs, idle: Mapping[str, Mask], bounds: Mapping[str, Interval]) -> str:
    behind = set(idle)
    for node in values.nodes:
        if behind.intersection(node.input) and any(name in of.needed for name in node.output):
            behind.update(node.output)
            if not _same_for_both_zeros(node, values, bounds):
                return f"node {node.name!r} may tell 0.0 from -0.0, and adds up zeros of others"
    return ""


def _same_for_both_zeros(node: NodeProto, values: Values, bounds: Mapping[str, Interval]) -> bool:
    if values.opaque.intersection(node.output):
        return False
    if node.op_type == "Pow":
        return node.input[1] in values.constants and bool((values.constants[node.input[1]] >= 0).all())
    if node.op_type not in _TELLING:
        return True
    low, high = bounds[node.input[_TELLING[node.op_type]]]
    return bool(((low >= LEAST) | (high <= -LEAST)).all())
