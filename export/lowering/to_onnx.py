"""A body as an ONNX graph: one model with dynamic batch size and nothing of the machine it came from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from eideticnet.data.draws import tracing
from eideticnet.export.errors import ExportError
from eideticnet.export.graph.prefix import cut
from eideticnet.export.graph.tail import X, logits_name
from eideticnet.export.lowering.translations import TRANSLATIONS

OPSET = 20
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


def to_onnx(body: nn.Module, example: Tensor, owners: Sequence[str]) -> onnx.ModelProto:
    """``body`` maps x (N, *shape) to one tensor of logits for each of ``owners``; ``example`` has more
    than one row, for a batch of one would be exported as a constant."""
    outputs = [logits_name(owner) for owner in owners]
    with tracing(), _quiet():
        program = torch.onnx.export(
            body,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[X],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
            custom_translation_table=TRANSLATIONS,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    _check_batch(model)
    _share_prefixes(model)
    return cut(model, outputs)  # the exporter leaves tensors behind that it folded into others


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="# The axis name")
        yield


def _check_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(
                f"the batch dimension of {value.name!r} became a constant during export: the trunk "
                "computes with the number of rows; let it use x.shape[0] in views and sizes alone"
            )


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes, which hold source paths of the machine it ran on."""
    del model.metadata_props[:]
    graph = model.graph
    items: tuple[Any, ...] = (
        *(graph, *graph.node, *graph.value_info),
        *(*graph.input, *graph.output, *graph.initializer),
    )
    for item in items:
        del item.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    del graph.value_info[:]  # they repeat what shape inference tells


def _share_prefixes(model: onnx.ModelProto) -> None:
    """Let a block concatenate its own piece to the prefix that the block before put together, instead
    of all pieces again: copies are exact, and two long ones cost less than many short ones."""
    made: dict[tuple[object, ...], str] = {}
    for node in model.graph.node:
        if node.op_type == "Concat":
            axis, pieces = node.attribute[0].i, tuple(node.input)
            longest = next((n for n in range(len(pieces) - 1, 1, -1) if (axis, pieces[:n]) in made), 0)
            if longest:
                node.input[:] = [made[axis, pieces[:longest]], *pieces[longest:]]
            made.setdefault((axis, pieces), node.output[0])
