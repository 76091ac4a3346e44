"""Precisions below float32: half types by casting a copy of the body, int8 by ONNX Runtime's tool."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

from eideticnet import Inputs
from eideticnet.block import Block
from eideticnet.export.graph.prefix import cut
from eideticnet.export.lowering.body import Body
from eideticnet.export.lowering.paged import PagedBody
from eideticnet.pages.passes import Paged
from eideticnet.program import Program

Precision = Literal["float32", "float16", "bfloat16", "int8"]
HALVES: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Reduced(nn.Module):
    """A body that computes in ``dtype``, from float32 inputs to float32 logits.

    Normalisation stays in float32, for raw values may be out of a half type's range. The body is a
    copy: the network's own frozen weights are as they were.
    """

    def __init__(self, body: Body | PagedBody, inputs: Inputs, dtype: torch.dtype) -> None:
        super().__init__()
        self.inputs, self.dtype = inputs, dtype
        self.body = copy.deepcopy(body).to(dtype).eval()
        for module in self.body.modules():
            if isinstance(module, (Block, Paged)):
                module.program = _cast_constants(module.program, dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.inputs.normalise(x)
        x = x.to(self.dtype) if x.is_floating_point() else x
        return tuple(logits.float() for logits in self.body.logits(x))


def _cast_constants(program: Program, dtype: torch.dtype) -> Program:
    """Constants of the trunk in ``dtype``, which would turn what they meet into float32 again, and no
    literals beyond where it ends."""
    return Program(tuple(replace(s, options=_cast(s.options, dtype)) for s in program.steps), program.groups)


def _cast(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    cast = {name: _nearest(value, dtype) for name, value in options.items() if name in ("args", "kwargs")}
    if options.get("dtype") == "float32":
        cast["dtype"] = str(dtype).partition(".")[2]
    return {**options, **cast}


def _nearest(value: Any, dtype: torch.dtype) -> Any:
    """A literal's value among those of ``dtype``."""
    match value:
        case dict():
            return {name: _nearest(v, dtype) for name, v in value.items()}
        case list():
            return [_nearest(v, dtype) for v in value]
        case float() if math.isfinite(value):
            return max(torch.finfo(dtype).min, min(torch.finfo(dtype).max, value))
    return value


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with int8 weights and dynamically quantised activations.

    The scale of an activation is that of the whole batch, so an answer depends on its batchmates.
    """
    with _quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory(prefix="eidetic-int8-") as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(
                _unshared(model), path, weight_type=QuantType.QUInt8
            )  # its int8 convolution has no kernel
            made = onnx.load(path)
    del made.metadata_props[:]
    del made.graph.value_info[:]
    return cut(made, [output.name for output in model.graph.output])


def _unshared(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with a weight of its own for each Gemm: the tool transposes the one that several share as
    often as it meets it."""
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    tensors, seen = {tensor.name: tensor for tensor in model.graph.initializer}, set[str]()
    for number, node in enumerate(alone.graph.node):
        if node.op_type != "Gemm" or (weight := node.input[1]) not in tensors:
            continue
        if weight in seen:
            copied = alone.graph.initializer.add()
            copied.CopyFrom(tensors[weight])
            copied.name = node.input[1] = f"{weight}_{number}"
        seen.add(weight)
    return alone


@contextmanager
def _quiet() -> Iterator[None]:
    """The tool advises, by the root logger, a preprocessing that has nothing left to do here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
