"""Operations that torch's exporter lacks, or translates into ones that compute something else.

What it does well is left as it is: a digest is taken of the graph, and versions are compared by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from onnxscript import opset20
from onnxscript.function_libs.torch_lib.ops import core, nn

op: Any = opset20
Value = Any
"""A value of the graph that is being written; its shape is known, save the batch."""


def _divided_by(pool: Callable[..., Value], spatial: int) -> Callable[..., Value]:
    """An average pool with torch's ``divisor_override``, which the exporter drops: a sum, divided."""

    def translation(
        self: Value,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        if divisor_override is None:
            return pool(self, kernel_size, stride, padding, ceil_mode, count_include_pad)
        kernel, step, pad = (
            list(given) * (spatial // len(given)) for given in (kernel_size, stride or kernel_size, padding)
        )
        ends = []
        for size, k, s, p in zip(self.shape[-spatial:], kernel, step, pad, strict=True):
            count = (size + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
            count -= ceil_mode and (count - 1) * s >= size + p  # no window begins behind the padding
            ends.append(max(0, (count - 1) * s + k - size - p))
        padded = op.Pad(self, op.Constant(value_ints=[0, 0, *pad, 0, 0, *ends]))
        average = op.AveragePool(padded, kernel_shape=kernel, strides=step)
        return op.Mul(average, op.CastLike(op.Constant(value_float=prod(kernel) / divisor_override), self))

    return translation


def _adaptive(reduce: Callable[..., Value], self: Value, output_size: Sequence[int]) -> Value:
    """An adaptive pool, one dimension after the other: each output is reduced from its own slice."""
    for axis, (size, count) in enumerate(zip(self.shape[2:], output_size, strict=True), 2):
        along = op.Constant(value_ints=[axis])
        slices = [
            op.Slice(
                self,
                op.Constant(value_ints=[i * size // count]),
                op.Constant(value_ints=[-(-(i + 1) * size // count)]),
                along,
            )
            for i in range(count)
        ]
        parts = [reduce(part, along, keepdims=1) for part in slices]
        self = op.Concat(*parts, axis=axis) if count > 1 else parts[0]
    return self


def _adaptive_average(self: Value, output_size: Sequence[int]) -> Value:
    return _adaptive(op.ReduceMean, self, output_size)


def _adaptive_maximum(pool: Callable[..., Value]) -> Callable[..., tuple[Value, Value]]:
    """Maxima and, unread, their places; ``pool`` where windows are alike, as the exporter has it."""

    def translation(self: Value, output_size: Sequence[int]) -> tuple[Value, Value]:
        sizes = self.shape[-len(output_size) :]
        if set(output_size) == {1}:
            made = core.aten_amax(self, list(range(-len(sizes), 0)), keepdim=True)
        elif any(size % count for size, count in zip(sizes, output_size, strict=True)):
            made = _adaptive(op.ReduceMax, self, output_size)
        else:
            made = pool(self, [size // count for size, count in zip(sizes, output_size, strict=True)])
        return made, made

    return translation


def _log_sigmoid(self: Value) -> Value:
    """Without the sigmoid that is zero far below, whose logarithm is none."""
    return op.Neg(op.Softplus(op.Neg(self)))


aten = torch.ops.aten
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    aten.avg_pool2d.default: _divided_by(nn.aten_avg_pool2d, 2),
    aten.avg_pool3d.default: _divided_by(nn.aten_avg_pool3d, 3),
    aten._adaptive_avg_pool3d.default: _adaptive_average,
    aten.adaptive_max_pool2d.default: _adaptive_maximum(nn.aten_max_pool2d),
    aten.adaptive_max_pool3d.default: _adaptive_maximum(nn.aten_max_pool3d),
    aten.log_sigmoid.default: _log_sigmoid,
}
