"""A body as an ONNX graph: one model with dynamic batch size and nothing of the machine it came from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from eideticnet.data.draws import tracing
from eideticnet.export.errors import ExportError
from eideticnet.export.graph.prefix import cut
from eideticnet.export.graph.tail import X, logits_name
from eideticnet.export.graph.values import OPSET
from eideticnet.export.lowering.translations import TRANSLATIONS

logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


def to_onnx(
    body: nn.Module,
    example: Tensor,
    owners: Sequence[str],
    joined: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """``body`` maps x (N, *shape) to one tensor of logits for each of ``owners``; ``example`` has more
    than one row, for a batch of one would be exported as a constant.

    ``joined``: logits that it gives first, of several owners side by side, by a name for them, with each
    owner's number. One operation cuts them apart here, since a trace of each would take long."""
    apart = [owner for owner in owners if not any(owner in of for of in joined.values())]
    outputs = [logits_name(name) for name in (*joined, *apart)]
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
    for name, of in joined.items():
        if name not in of:
            _cut_apart(model, logits_name(name), {logits_name(owner): count for owner, count in of.items()})
    wanted = [logits_name(owner) for owner in owners]
    given = {value.name: value for value in model.graph.output}
    del model.graph.output[:]
    model.graph.output.extend(given[name] for name in wanted)
    return cut(model, wanted)  # the exporter leaves tensors behind that it folded into others


def _cut_apart(model: onnx.ModelProto, name: str, widths: Mapping[str, int]) -> None:
    """Let the graph give the parts of an output by their names, too; what is behind them is nobody's."""
    graph = model.graph
    whole = next(value for value in graph.output if value.name == name)
    batch, columns = whole.type.tensor_type.shape.dim
    sizes = dict(widths)
    if free := columns.dim_value - sum(widths.values()):
        sizes[f"{name}_free"] = free
    table = numpy_helper.from_array(np.array(list(sizes.values())), f"{name}_sizes")
    graph.initializer.append(table)
    graph.node.append(helper.make_node("Split", [name, table.name], list(sizes), f"{name}_split", axis=1))
    for part, size in widths.items():
        shape: list[str | int | None] = [batch.dim_param, size]
        graph.output.append(helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, shape))


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
