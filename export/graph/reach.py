"""Which elements of a node's inputs an element of its outputs can depend on.

A weight of zero passes nothing on, as long as what it multiplies is finite: such elements are *read*, and not
*needed*. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from eideticnet.export.graph.values import BY_CHANNEL, ELEMENTWISE, MOVING, REDUCING, Values, attribute

Mask = npt.NDArray[np.bool_]


class Reach(NamedTuple):
    """Of one input: the elements that an output can depend on, and those that it is computed with."""

    name: str
    needed: Mask
    read: Mask


def reach(node: NodeProto, outputs: Sequence[Mask], values: Values) -> Iterator[Reach]:
    """For ``outputs``, a mask for each, what of each input they reach. What isn't named they reach whole."""
    found = _RULES.get(node.op_type, _whole)(node, outputs[0], values)
    if node.op_type in MOVING and (node.op_type != "Gather" or node.input[1] in values.constants):
        found = _moved(node, outputs, values)
    named = list(found)
    yield from named
    for name in set(node.input) - {r.name for r in named} - {""} - values.sizes.keys():
        yield _same(name, np.ones(values.shapes[name], np.bool_))


def _same(name: str, mask: Mask) -> Reach:
    return Reach(name, mask, mask)


def _whole(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    yield from ()


def _elementwise(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    for name in filter(None, node.input):
        read = _before_broadcast(out, values.shapes[name])
        yield _same(name, read)


def _typed(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    """Of the second input only the type counts."""
    yield _same(node.input[0], out)
    yield _same(node.input[1], np.zeros(values.shapes[node.input[1]], np.bool_))


def _multiplied(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    for name, other in (node.input, reversed(node.input)):
        needed = out & (values.constants[other] != 0) if other in values.constants else out
        shape = values.shapes[name]
        yield Reach(name, _before_broadcast(needed, shape), _before_broadcast(out, shape))


def _reducing(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    data, *others = node.input
    shape, axes = values.shapes[data], values.axes(node)
    if out.ndim < len(shape):
        out = np.expand_dims(out, axes)
    yield _same(data, np.broadcast_to(out.any(axes, keepdims=True), shape))
    if node.op_type == "LayerNormalization":
        for name in filter(None, others):
            yield _same(name, _before_broadcast(out, values.shapes[name]))


def _moved(node: NodeProto, outputs: Sequence[Mask], values: Values) -> Iterator[Reach]:
    places, starts = values.moved(node)
    flags = np.zeros(starts[-1], np.bool_)
    for where, mask in zip(places, outputs, strict=True):
        flags[where[mask]] = True
    data = node.input if node.op_type == "Concat" else node.input[:1]
    for name, start, end in zip(data, starts, starts[1:], strict=False):
        yield _same(name, flags[start:end].reshape(values.shapes[name]))


def _gathered(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    """At places that an input tells."""
    data, index = node.input
    (axis,) = values.axes(node)
    there = range(axis, axis + len(values.shapes[index]))
    along = np.expand_dims(out.any(tuple(there)), axis)
    yield _same(data, np.broadcast_to(along, values.shapes[data]))


def _matmul(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    a, b = node.input
    yield from _product(a, b, out, values)
    for found in _product(b, a, out.swapaxes(-1, -2), values, turned=True):
        yield Reach(found.name, found.needed.swapaxes(-1, -2), found.read.swapaxes(-1, -2))


def _product(a: str, b: str, out: Mask, values: Values, turned: bool = False) -> Iterator[Reach]:
    """Of ``a`` in a @ b, which gives ``out``; of its transpose if ``turned``."""
    shape = values.shapes[a]
    shape = (*shape[:-2], shape[-1], shape[-2]) if turned else shape
    whole = (*out.shape[:-1], shape[-1])
    read = np.broadcast_to(out.any(-1, keepdims=True), whole)
    needed, weight = read, values.constants.get(b)
    if weight is not None and weight.ndim == 2:
        needed = _passed(out, weight if not turned else weight.T)
    yield Reach(a, _before_broadcast(needed, shape), _before_broadcast(read, shape))


def _passed(out: Mask, weight: npt.NDArray[np.generic]) -> Mask:
    """(..., L) through the weights (K, L) that are not zero, to (..., K)."""
    there = (weight != 0).astype(np.float32)
    return np.asarray(out.astype(np.float32) @ there.T > 0)


def _gemm(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    a, b, *c = node.input
    turned = attribute(node, "transB", 0)
    weight = values.constants[b].T if turned else values.constants[b]
    read = np.broadcast_to(out.any(1, keepdims=True), values.shapes[a])
    yield Reach(a, _passed(out, weight), read)
    columns = np.broadcast_to(out.any(0), weight.shape)
    yield _same(b, columns.T if turned else columns)
    for name in filter(None, c):
        yield _same(name, _before_broadcast(out, values.shapes[name]))


def _conv(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    """A convolution, or a transposed one, whose weights (C, O / groups, ...) read the other way round."""
    data, weight, *bias = node.input
    kernel, channels = values.constants[weight], _channels(out)
    groups, turned = attribute(node, "group", 1), node.op_type == "ConvTranspose"
    there = (kernel != 0).any(tuple(range(2, kernel.ndim)))
    there = there.reshape(groups, -1, there.shape[1])  # of each group
    wanted = channels.reshape(groups, -1)
    rows = wanted[:, None, :] if turned else wanted[:, :, None]
    needed = (there & rows).any(2 if turned else 1).reshape(-1)
    read = np.repeat(wanted.any(1), len(needed) // groups)
    shape = values.shapes[data]
    yield Reach(data, _along_channel(needed, shape), _along_channel(read, shape))
    own = np.broadcast_to(rows, there.shape).reshape(kernel.shape[:2])
    yield _same(weight, np.broadcast_to(own.reshape(*own.shape, *[1] * (kernel.ndim - 2)), kernel.shape))
    for name in filter(None, bias):
        yield _same(name, channels)


def _by_channel(node: NodeProto, out: Mask, values: Values) -> Iterator[Reach]:
    data, *others = node.input
    inner = tuple(range(2, out.ndim))
    mixed = out if node.op_type == "BatchNormalization" else out.any(inner, keepdims=True)
    yield _same(data, np.broadcast_to(mixed, values.shapes[data]))
    if node.op_type != "Resize":
        for name in filter(None, others):
            yield _same(name, _channels(out))


def _channels(mask: Mask) -> Mask:
    return np.asarray(mask.any((0, *range(2, mask.ndim))))


def _along_channel(channels: Mask, shape: tuple[int, ...]) -> Mask:
    return np.broadcast_to(channels.reshape(1, -1, *[1] * (len(shape) - 2)), shape)


def _before_broadcast(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """What was broadcast from ``shape`` to the mask's own."""
    mask = np.asarray(mask.any(tuple(range(mask.ndim - len(shape)))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and mask.shape[i] != 1)
    return np.asarray(mask.any(axes, keepdims=True))


Rule = Callable[[NodeProto, Mask, Values], Iterator[Reach]]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCING, _reducing),
    **dict.fromkeys(BY_CHANNEL, _by_channel),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "CastLike": _typed,
    "Mul": _multiplied,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Gather": _gathered,
}
