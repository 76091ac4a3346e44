"""Bounds of operations on each element: what they give at the ends, and where they turn between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import inf, nextafter
from typing import Any

import torch
from torch import Tensor, nn

from eideticnet.bounds.interval import FINE, Interval
from eideticnet.program import Step
from eideticnet.rules.elementwise import run_literal

_LISTED = {
    "exact": """relu relu6 hardtanh abs neg clamp clamp_min clamp_max threshold maximum minimum floor ceil
        round trunc sign where masked_fill zeros_like ones_like full_like type_as hardshrink lt le gt ge""",
    "rounded": "add sub mul div rsub reciprocal square sqrt rsqrt pow exp exp2 sinh cosh",
    "to whole numbers": "floor_divide",
    "smooth": """leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid softplus sigmoid tanh
        log_sigmoid softshrink log1p erf log log2 log10 expm1 atan asinh erfc logit""",
    "waves": "sin cos frac",
    "logical": """logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or
        bitwise_xor __and__ __or__ __xor__""",
    "any truth": "eq ne isnan isinf",
}
_SORTS = {name: sort for sort, names in _LISTED.items() for name in names.split()}
"""What is off by nothing, by a share of the result, or of what goes in too, where numbers cancel out."""
_TURNING_AT_0 = """abs square cosh pow leaky_relu elu selu celu type_as div reciprocal rsqrt log log2 log10
    floor_divide"""
_TURNS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(_TURNING_AT_0.split(), (0.0,)),
    "gelu": (-0.7517915,),
    "silu": (-1.2784645,),
    "mish": (-1.1924906,),
    "hardswish": (-1.5,),
}
"""Where a function turns or has no value. Between these it only rises, or only falls, in each operand: so all
that it gives lies between what it gives there and at the ends."""


def elementwise(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of a function of each element."""
    name, overload = str(step.options["op"]).split(".")[1:]
    found = list[int]()
    options = {key: _told_apart(value, found) for key, value in step.options.items()}
    operands = [values[i] for i in found]
    given = (*options["args"], *options["kwargs"].values())
    if name in _COMPOSED and (name not in ("add", "sub", "rsub") or len(given) > 2):
        return _COMPOSED[name](*(_operand(value, operands) for value in given))
    sort = _SORTS.get(name)
    if sort in ("logical", "any truth"):
        return _truth(name, options, operands)
    if sort == "waves" and not operands[0].known:
        return Interval.within(-1, 1, operands[0].low.shape).rounded(FINE)
    if sort is None or (name == "pow" and _bends(overload, options, operands)):
        return None
    turns = _TURNS.get(name, ())
    if name == "threshold":
        turns = (options["args"][1], nextafter(options["args"][1], inf))
    made = at_corners(lambda *corner: run_literal(options, list(corner)), operands, turns)
    if name == "type_as" and made.low.is_floating_point():  # it may be the type of whole numbers
        return Interval.over(made.low, made.high, made.low.trunc(), made.high.trunc())
    if sort == "exact":
        return made
    slack: Tensor | float = 1.0 if sort == "to whole numbers" or overload == "Tensor_mode" else 0.0
    return made.rounded(FINE, FINE * (1 + operands[0].most) if sort in ("smooth", "waves") else slack)


def at_corners(
    function: Callable[..., Tensor], operands: list[Interval], turns: tuple[float, ...] = ()
) -> Interval:
    """What holds all that ``function`` gives at the ends of its operands, and where they pass ``turns``."""
    corners = product(*(_places(operand, turns) for operand in operands))
    return Interval.over(*(function(*corner) for corner in corners))


def _places(value: Interval, turns: tuple[float, ...]) -> Iterator[Tensor]:
    yield value.low
    yield value.high
    if value.low.dtype != torch.bool:
        for turn in turns:
            yield torch.minimum(torch.full_like(value.low, turn).maximum(value.low), value.high)


def _told_apart(value: Any, found: list[int]) -> Any:
    """A literal in which each operand has a number of its own, and numbers are as float32 has them;
    ``found`` says which value each operand is."""
    if isinstance(value, dict):
        if "input" in value:
            found.append(value["input"])
            return {"input": len(found) - 1}
        return {key: _told_apart(v, found) for key, v in value.items()}
    if isinstance(value, list):
        return [_told_apart(v, found) for v in value]
    return float(torch.tensor(value, dtype=torch.float32)) if isinstance(value, float) else value


def _operand(value: Any, operands: list[Interval]) -> Interval:
    """An operand, or a number as one."""
    if isinstance(value, dict):
        return operands[value["input"]]
    return Interval.within(value, value, ())


def _truth(name: str, options: dict[str, Any], operands: list[Interval]) -> Interval | None:
    """Bounds of a truth value: of truth values all that it can be, of numbers both."""
    if all(operand.low.dtype == torch.bool for operand in operands) and _SORTS[name] == "logical":
        return at_corners(lambda *corner: run_literal(options, list(corner)), operands)
    if name.startswith(("bitwise", "__")):
        return None
    shape = run_literal(options, [operand.low for operand in operands]).shape
    return Interval(torch.zeros(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool))


def _bends(overload: str, options: dict[str, Any], operands: list[Interval]) -> bool:
    """Whether a power has a base below zero, and an exponent that may be no whole number."""
    base = _operand(options["args"][0], operands)
    return overload != "Tensor_Scalar" and bool((base.low < 0).any())


def _plus(a: Interval, b: Interval) -> Interval:
    return at_corners(torch.add, [a, b]).rounded(FINE)


def times(a: Interval, b: Interval) -> Interval:
    """Bounds of a product."""
    return at_corners(torch.mul, [a, b]).rounded(FINE)


def _minus(a: Interval) -> Interval:
    return Interval(-a.high, -a.low)


def _over(a: Interval, b: Interval) -> Interval:
    return at_corners(torch.div, [a, b], (0.0,)).rounded(FINE)


def _remainder(a: Interval, b: Interval) -> Interval | None:
    """It lies between zero and what is divided by."""
    if not bool((b.least > 0).all()):
        return None
    zero = torch.zeros_like(a.low + b.low)
    return Interval.over(zero, zero + b.low, zero + b.high).rounded(FINE)


_ONE = Interval.within(1, 1, ())
_COMPOSED: dict[str, Callable[..., Interval | None]] = {
    "add": lambda a, b, alpha: _plus(a, times(alpha, b)),
    "sub": lambda a, b, alpha: _plus(a, _minus(times(alpha, b))),
    "rsub": lambda a, b, alpha: _plus(b, _minus(times(alpha, a))),
    "lerp": lambda a, b, weight: _plus(a, times(weight, _plus(b, _minus(a)))),
    "addcmul": lambda a, b, c, value=_ONE: _plus(a, times(value, times(b, c))),
    "addcdiv": lambda a, b, c, value=_ONE: _plus(a, times(value, _over(b, c))),
    "remainder": _remainder,
}
"""What is several roundings one after the other, as it is computed."""
