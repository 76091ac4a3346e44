"""The network as one graph: trunk, router, heads and the routing itself, one trunk pass."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from eideticnet import EideticNetwork, NotReadyError
from eideticnet.inputs import DTYPES
from export.errors import ExportError

OPSET = 20
INPUTS = ("x", "task", "threshold")
OUTPUTS = ("task", "label", "task_probs", "label_probs", "logits")
# A graph can't give an input and an output the same name, so ONNX's inputs carry a prefix.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
ONNX_INPUTS = ("x", "pinned_task", "threshold")


class Graph(nn.Module):
    """The network's forward pass with all three inputs given and a plain tuple as answer."""

    def __init__(self, net: EideticNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, task: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net(x, task, threshold))


def example(net: EideticNetwork, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the right shapes and types; more than one row, for a batch of one would be
    exported as a constant."""
    x = torch.zeros(rows, *net.inputs.shape, dtype=DTYPES[net.inputs.dtype])
    return x, torch.full((rows,), -1), torch.zeros(rows)


def prepare(net: EideticNetwork) -> Graph:
    """A graph whose frozen weights were just checked. Raises if there is no router yet."""
    net.verify()
    if net.learned.routing is None:
        raise NotReadyError("the network has no router for its present tasks; call fit_router first")
    return Graph(net).eval()


def write_onnx(net: EideticNetwork, path: Path) -> None:
    """Write one ONNX file with dynamic batch size and no paths of this machine in it."""
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="# The axis name")
        program = torch.onnx.export(
            prepare(net),
            example(net),
            dynamo=True,
            opset_version=OPSET,
            input_names=ONNX_INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    for value in model.graph.input:
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"the batch dimension of {value.name!r} became a constant during export")
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes, which hold source paths of the machine it ran on."""
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""


def write_torchscript(net: EideticNetwork, path: Path) -> None:
    """Write a traced and frozen TorchScript file."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        traced = torch.jit.trace(prepare(net), example(net), check_trace=False)
        torch.jit.freeze(traced).save(str(path))
