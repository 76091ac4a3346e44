"""Between which numbers each element of a body's values lies, for every input that the contract allows.

Interval arithmetic in float64. What isn't known to be a number of at most ``MOST`` in size is unbounded: the
whole line. That leaves as much room below the largest float32 as rounding and the order of a sum need, and
what a runtime folds into the layer before: terms may be two thousand times as great as what they add up to.
Imports neither torch nor eideticnet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from eideticnet.export.graph.values import ELEMENTWISE, MOVING, REDUCING, Values, attribute

Array = npt.NDArray[np.float64]
Interval = tuple[Array, Array]
"""Least and greatest, of each element."""
MOST, MOST_SQUARED = 1e34, 1e17
"""Of a value, and of one that is squared."""
LEAST = 1e-30
"""Of what is divided by, its distance from zero."""
_LARGEST_WHOLE = 2e9
_ROUNDING = 1e-3
"""How much of the size of its terms rounding may add to a sum of many, or take from it."""
_TYPES = (np.float32, np.float64, np.int64, np.int32, np.bool_)


def intervals(values: Values, low: float | None, high: float | None) -> dict[str, Interval]:
    """Of every value but sizes, where each input lies from ``low`` to ``high``, or anywhere."""
    found = {name: _constant(c) for name, c in values.constants.items() if c.dtype in _TYPES}
    ends = np.array(-np.inf if low is None else low), np.array(np.inf if high is None else high)
    with np.errstate(all="ignore"):
        for value in values.body.graph.input:
            found[value.name] = _spread(_settled(*ends), values.shapes[value.name])
        for node in values.nodes:
            for index, name in enumerate(node.output):
                if name and name not in found and name not in values.sizes:
                    found[name] = _made(node, index, values, found)
    return found


def _made(node: NodeProto, index: int, values: Values, found: dict[str, Interval]) -> Interval:
    name = node.output[index]
    inputs = [found.get(name) for name in node.input if name]
    given = [pair for pair in inputs if pair is not None]
    made: Interval | None = None
    if name not in values.opaque and values.dtypes[name] in _TYPES:
        if node.op_type in MOVING and node.input[0] in found:
            made = _moved(node, index, values, found)
        elif len(given) == len(inputs) and node.op_type in REDUCING:
            made = _reduced(node, given[0], values.axes(node))
        elif len(given) == len(inputs) and node.op_type in _RULES:
            made = _RULES[node.op_type](node, given)
    unbounded = _spread((np.array(-np.inf), np.array(np.inf)), values.shapes[name])
    if made is None:
        return unbounded
    if node.op_type in ELEMENTWISE and not (node.op_type == "Where" and np.array_equal(*given[0])):
        made = _known(node, given, made)
    kind = values.dtypes[name].kind
    if kind == "i" and _size(made).max(initial=0) > _LARGEST_WHOLE:
        return unbounded
    if kind == "i":  # what is no whole number is cut off
        made = np.floor(made[0]), np.ceil(made[1])
    elif kind == "b":
        made = np.minimum(made[0], 0), np.maximum(made[1], 1)
    low, high = _spread(_settled(*made), values.shapes[name])
    return values.alike(name, low, np.min), values.alike(name, high, np.max)


def _known(node: NodeProto, given: list[Interval], made: Interval) -> Interval:
    """Of what may be no number nothing is known, whatever is done to it; what a mask hides stays hidden."""
    finite = np.broadcast_arrays(*(np.isfinite(low) & np.isfinite(high) for low, high in given))
    hides = np.broadcast_arrays(*(high == -np.inf for _, high in given))
    known = np.logical_and.reduce(finite)
    low, high = np.where(known, made[0], -np.inf), np.where(known, made[1], np.inf)
    if node.op_type == "Add":
        hidden = np.logical_and.reduce(np.logical_or(finite, hides)) & np.logical_or.reduce(hides)
        high = np.where(hidden, -np.inf, high)
    return low, high


def _spread(pair: Interval, shape: tuple[int, ...]) -> Interval:
    return np.broadcast_to(pair[0], shape), np.broadcast_to(pair[1], shape)


def _settled(low: npt.ArrayLike, high: npt.ArrayLike) -> Interval:
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    fine = (np.abs(low) <= MOST) & (np.abs(high) <= MOST) | (high == -np.inf)
    return np.where(fine, low, -np.inf), np.where(fine, high, np.inf)


def _constant(values: npt.NDArray[np.generic]) -> Interval:
    """Below ``MOST`` is what a mask hides: minus infinity at both ends, until a softmax takes it away."""
    ends = np.asarray(values, np.float64)
    ends = np.where(ends < -MOST, -np.inf, ends)
    return _settled(ends, ends)


def _size(pair: Interval) -> Array:
    return np.asarray(np.maximum(-pair[0], pair[1]))


def _around(size: Array) -> Interval:
    return -size, size


def _rounded(low: Array, high: Array, size: Array, positive: bool = False) -> Interval:
    """A sum of terms of this ``size`` together. Where none is below zero, the sum isn't either."""
    fine = size <= MOST
    least = low if positive else low - _ROUNDING * size
    return np.where(fine, least, -np.inf), np.where(fine, high + _ROUNDING * size, np.inf)


def _sum(*pairs: Interval) -> Interval:
    terms = ([pair[0] for pair in pairs], [pair[1] for pair in pairs], [_size(pair) for pair in pairs])
    low, high, size = (reduce(np.add, of) for of in terms)
    return _rounded(low, high, size, all(end.min(initial=0) >= 0 for end in terms[0]))


def _product(one: Interval, other: Interval) -> Interval:
    corners = [a * b for a in one for b in other]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def _inverse(pair: Interval) -> Interval:
    low, high = pair
    apart = (low >= LEAST) | (high <= -LEAST)
    return np.where(apart, 1 / high, -np.inf), np.where(apart, 1 / low, np.inf)


def _power(node: NodeProto, given: list[Interval]) -> Interval | None:
    least, most = given[1]
    if least.size != 1 or least != most or least < 0 or least % 1:
        return None
    size = np.asarray(_size(given[0]) ** least)
    return (np.zeros_like(size), size) if least % 2 == 0 else _around(size)


def _multiplied(node: NodeProto, given: list[Interval]) -> Interval:
    if node.input[0] == node.input[1]:
        size = _size(given[0])
        return np.zeros_like(size), size**2
    return _product(*given)


def _moved(node: NodeProto, index: int, values: Values, found: dict[str, Interval]) -> Interval:
    if node.op_type == "Gather" and node.input[1] not in values.constants:
        (axis,), (low, high) = values.axes(node), found[node.input[0]]
        shape = list(low.shape)
        shape[axis : axis + 1] = [1] * len(values.shapes[node.input[1]])
        return low.min(axis).reshape(shape), high.max(axis).reshape(shape)
    places = values.moved(node)[0][[name for name in node.output if name].index(node.output[index])]
    data = node.input if node.op_type == "Concat" else node.input[:1]
    pads = node.op_type == "Pad" and len(node.input) > 2 and node.input[2]
    filled = found[node.input[2]] if pads else (np.zeros(1), np.zeros(1))
    pairs = [(filled[0].reshape(-1)[:1], filled[1].reshape(-1)[:1]), *(found[name] for name in data)]
    low, high = (np.concatenate([pair[i].reshape(-1) for pair in pairs]) for i in (0, 1))
    return low[places], high[places]


def _reduced(node: NodeProto, pair: Interval, axes: tuple[int, ...]) -> Interval | None:
    kept = node.op_type.endswith("oftmax") or bool(attribute(node, "keepdims", 1))
    low, high = pair[0].min(axes, keepdims=kept), pair[1].max(axes, keepdims=kept)
    count, size = float(np.prod([pair[0].shape[axis] for axis in axes])), np.maximum(-low, high)
    match node.op_type:
        case "ReduceMax" | "ReduceMin":
            return low, high
        case "ReduceMean" | "ReduceSum":
            times = count if node.op_type == "ReduceSum" else 1.0
            return _rounded(low * times, high * times, size * count, low.min(initial=0) >= 0)
        case "Softmax":
            hides = pair[1] == -np.inf
            known = (np.isfinite(pair[0]) | hides).all(axes, keepdims=True) & ~hides.all(axes, keepdims=True)
            return np.where(known, 0, -np.inf), np.ones_like(high)
        case "ReduceL1":
            return _rounded(np.zeros_like(size), size * count, size * count, True)
        case "ReduceL2":
            return np.zeros_like(size), np.where(size <= MOST_SQUARED, size * np.sqrt(count) * 2, np.inf)
        case "ReduceLogSumExp":
            return _rounded(low, high + np.log(count), size + np.log(count))
        case "LogSoftmax":
            return low - high - np.log(count) - _ROUNDING * size - 1, np.where(size <= MOST, 1, np.inf)
    return None


def _clipped(node: NodeProto, given: list[Interval]) -> Interval:
    low, high = given[0]
    ends = [place for place, name in enumerate(node.input) if name][1:]
    for place, (least, most) in zip(ends, given[1:], strict=True):
        function = np.maximum if place == 1 else np.minimum
        low, high = function(low, least), function(high, most)
    return low, high


def _leaky(node: NodeProto, given: list[Interval]) -> Interval:
    slope = _size(given[1]) if len(given) > 1 else abs(attribute(node, "alpha", 0.01))
    return _around(np.asarray(np.maximum(1, slope) * _size(given[0])))


def _exponential(node: NodeProto, given: list[Interval]) -> Interval | None:
    factors = [attribute(node, name, 2.0) for name in ("alpha", "gamma")]
    steep = max(1.0, *factors) ** 2
    if min(factors) < LEAST:  # it bends upwards, or divides by zero
        return None
    return np.full_like(given[0][0], -steep), np.maximum(given[0][1], 0) * steep


def _through(given: Interval, weight: Array) -> Interval:
    """(..., K) through weights (K, L). None is passed over: zero times unbounded is unbounded."""
    low, high = given
    above, below = np.maximum(weight, 0), np.minimum(weight, 0)
    return _rounded(low @ above + high @ below, high @ above + low @ below, _size(given) @ np.abs(weight))


def _matmul(node: NodeProto, given: list[Interval]) -> Interval:
    a, b = given
    if np.array_equal(*b) and b[0].ndim == 2:
        return _through(a, b[0])
    return _around(_size(a) @ _size(b))


def _gemm(node: NodeProto, given: list[Interval]) -> Interval:
    weight, alpha = given[1][0], attribute(node, "alpha", 1.0)
    made = _through(given[0], alpha * (weight.T if attribute(node, "transB", 0) else weight))
    beta = np.array(attribute(node, "beta", 1.0))
    return _sum(made, _product(given[2], (beta, beta))) if len(given) > 2 else made


def _by_channel(pair: Interval, padded: bool) -> Interval:
    """(C,) of (N, C, ...), with the zeros of a padding if there may be one."""
    axes = (0, *range(2, pair[0].ndim))
    low, high = pair[0].min(axes), pair[1].max(axes)
    return (np.minimum(low, 0), np.maximum(high, 0)) if padded else (low, high)


def _along_channel(pair: Interval, rank: int) -> Interval:
    low, high = (end.reshape(-1, *[1] * (rank - 2)) for end in pair)
    return low, high


def _conv(node: NodeProto, given: list[Interval]) -> Interval:
    rank, kernel, groups = given[0][0].ndim, given[1][0], attribute(node, "group", 1)
    data, made = _by_channel(given[0], padded=True), list[Interval]()
    for group, part in enumerate(np.split(kernel, groups)):
        weight = part if node.op_type == "ConvTranspose" else part.swapaxes(0, 1)
        width, axes = len(data[0]) // groups, tuple(range(2, rank))
        low, high = (end[group * width : (group + 1) * width] for end in data)
        above, below = np.maximum(weight, 0).sum(axes), np.minimum(weight, 0).sum(axes)
        size = np.maximum(-low, high) @ (above - below)
        made.append(_rounded(low @ above + high @ below, high @ above + low @ below, size))
    whole = np.concatenate([pair[0] for pair in made]), np.concatenate([pair[1] for pair in made])
    return _along_channel(_sum(whole, *given[2:]), rank)


def _batch_norm(node: NodeProto, given: list[Interval]) -> Interval:
    data, rank = given[0], given[0][0].ndim
    scale, bias, mean, variance = (_along_channel(pair, rank) for pair in given[1:])
    root = np.sqrt(np.where(variance[0] >= 0, variance[0] + attribute(node, "epsilon", 1e-5), 0))
    steep = np.where(root >= LEAST, scale[0] / root, np.inf)
    return _sum(_product(_sum(data, (-mean[1], -mean[0])), (steep, steep)), bias)


def _instance_norm(node: NodeProto, given: list[Interval]) -> Interval | None:
    """No element is further from the mean than the square root of their number, in deviations."""
    data, rank = given[0], given[0][0].ndim
    scale, bias = (_along_channel(pair, rank) for pair in given[1:])
    axes = tuple(range(2, rank))
    fine = _size(data).max(axes, keepdims=True) <= MOST_SQUARED
    fine &= attribute(node, "epsilon", 1e-5) >= LEAST
    most = np.sqrt(float(np.prod([data[0].shape[axis] for axis in axes])))
    return _sum(_around(np.where(fine, most, np.inf) * _size(scale)), bias)


def _pooled(node: NodeProto, given: list[Interval]) -> Interval | None:
    padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET"
    if padded and max(attribute(node, "dilations", (1,))) > 1:
        return None  # a window may lie in the padding alone
    return _along_channel(_by_channel(given[0], padded=node.op_type == "AveragePool"), given[0][0].ndim)


def _resized(node: NodeProto, given: list[Interval]) -> Interval | None:
    """A cubic has weights of both signs, together below 2 where they are not made to be 1 at the border."""
    made = _pooled(node, given)
    if made is None or attribute(node, "mode", b"") != b"cubic":
        return made
    usual = -1 <= attribute(node, "cubic_coeff_a", -0.75) <= 0 and not attribute(node, "exclude_outside", 0)
    return _around(4 * _size(made)) if usual else None


def _between(low: float, high: float) -> Rule:
    return lambda node, given: (np.full_like(given[0][0], low), np.full_like(given[0][1], high))


def _rising(function: Callable[[Array], Array]) -> Rule:
    return lambda node, given: (np.asarray(function(given[0][0])), np.asarray(function(given[0][1])))


def _remainder(node: NodeProto, given: list[Interval]) -> Interval:
    """Below what is divided by, unless that may be zero."""
    return _around(np.where(np.isfinite(_inverse(given[1])[0]), _size(given[1]), np.inf))


def _whole(node: NodeProto, given: list[Interval]) -> Interval:
    return given[0][0] - 1, given[0][1] + 1


def _shrunk(node: NodeProto, given: list[Interval]) -> Interval:
    return np.minimum(given[0][0], 0), np.maximum(given[0][1], 0)


def _chosen(node: NodeProto, given: list[Interval]) -> Interval:
    choice, one, other = given
    if np.array_equal(*choice):
        return np.where(choice[0] != 0, one[0], other[0]), np.where(choice[0] != 0, one[1], other[1])
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def _ends(function: np.ufunc) -> Rule:
    return lambda node, given: (
        reduce(function, [a for a, _ in given]),
        reduce(function, [b for _, b in given]),
    )


Rule = Callable[[NodeProto, list[Interval]], Interval | None]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Sum"), lambda node, given: _sum(*given)),
    **dict.fromkeys(("Gelu", "HardSwish", "Mish", "ThresholdedRelu"), _shrunk),
    **dict.fromkeys(("LeakyRelu", "PRelu"), _leaky),
    **dict.fromkeys(("Elu", "Celu", "Selu"), _exponential),
    **dict.fromkeys(("Ceil", "Floor", "Round"), _whole),
    **dict.fromkeys(("Sinh", "Cosh"), lambda node, given: _around(np.cosh(_size(given[0])))),
    **dict.fromkeys(("Tanh", "Erf", "Softsign", "Sin", "Cos", "Sign"), _between(-1, 1)),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Not", "And", "Or", "Xor"), _between(0, 1)),
    **dict.fromkeys(
        ("Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"), _between(0, 1)
    ),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"), _pooled),
    **dict.fromkeys(("Identity", "Cast"), _rising(lambda x: x)),
    "Abs": lambda node, given: (np.zeros_like(given[0][0]), _size(given[0])),
    "Asinh": lambda node, given: _around(_size(given[0])),
    "Atan": _between(-2, 2),
    "BatchNormalization": _batch_norm,
    "Clip": _clipped,
    "Div": lambda node, given: _product(given[0], _inverse(given[1])),
    "Exp": _rising(np.exp),
    "Gemm": _gemm,
    "InstanceNormalization": _instance_norm,
    "Log": _rising(lambda x: np.where(x >= LEAST, np.log(x), np.inf)),
    "MatMul": _matmul,
    "Max": _ends(np.maximum),
    "Min": _ends(np.minimum),
    "Mod": _remainder,
    "Mul": _multiplied,
    "Neg": lambda node, given: (-given[0][1], -given[0][0]),
    "Pow": _power,
    "Reciprocal": lambda node, given: _inverse(given[0]),
    "Relu": _rising(lambda x: np.maximum(x, 0)),
    "Resize": _resized,
    "Softplus": _rising(lambda x: np.logaddexp(x, 0)),
    "Sqrt": _rising(lambda x: np.where(x >= 0, np.sqrt(x), np.inf)),
    "Sub": lambda node, given: _sum(given[0], (-given[1][1], -given[1][0])),
    "Where": _chosen,
}
"""What isn't listed is unbounded."""
