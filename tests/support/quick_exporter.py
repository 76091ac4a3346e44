"""torch's exporter looks at its 500 translations and at all operators of torch for each graph anew: half of
the export of a small one. Where this is imported it has looked, also for all processes that are forked from
there."""

from __future__ import annotations

import copy
import typing
from functools import cache
from typing import Any

import torch
from onnxscript._internal.values import TracedOnnxFunction
from torch import nn
from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry

from eideticnet.export.lowering.to_onnx import to_onnx

_parse, _registered = TracedOnnxFunction.function_ir.fget, cache(ONNXRegistry.from_torchlib)


def _copied(*opset_version: Any, **named: Any) -> ONNXRegistry:
    registry = copy.copy(_registered(*opset_version, **named))
    registry.functions = {name: [*found] for name, found in registry.functions.items()}
    return registry


TracedOnnxFunction.function_ir = property(cache(_parse))
ONNXRegistry.from_torchlib = staticmethod(_copied)
utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
torch._ops.Callable = typing.Callable  # evaluated for thousands of operators: this one is cached

with torch.no_grad():
    to_onnx(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval(), torch.zeros(2, 2), ["y"])
