"""What is known of the values of a body whatever its input: shapes, constants, and what grows with the batch.

A body is run at two sizes of batch on zeros. What follows from its input's shape alone (*sizes*) is told
from what depends on the input. Values of which too little is known are *opaque*: made by an operator that
isn't listed here, by one that mixes rows of the batch or takes its parameters from an input, or from such
a value.
Imports neither torch nor eideticnet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from eideticnet.export.errors import ArchiveError
from eideticnet.export.graph.session import session

Array = npt.NDArray[Any]
OPSET = 20
"""The version of the operators whose meaning the rules here state; graphs of others are opaque."""
ROWS = 2, 3
"""The batches. What is a multiple of a power of the batch differs between them."""

ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "And", "Asinh", "Atan", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh"),
        *("Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"),
        *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min"),
        *("Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu"),
        *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh"),
        *("ThresholdedRelu", "Where", "Xor"),
    }
)
REDUCING = frozenset(
    {
        *("LayerNormalization", "LogSoftmax", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax"),
    }
)
"""They mix what lies along some axes."""
BY_CHANNEL = frozenset(
    {
        *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool"),
        *("GlobalMaxPool", "InstanceNormalization", "LpPool", "MaxPool", "Resize"),
    }
)
"""They read (N, C, ...)."""
ALONG_AXES = frozenset({"Concat", "Gather", "Pad", "Slice", "Split", "Tile"})
MOVING = ALONG_AXES | {
    *("DepthToSpace", "Expand", "Flatten", "Reshape", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze")
}
"""What they give are elements of their input."""
PRODUCTS = frozenset({"Gemm", "MatMul"})
WHOLE = frozenset({"Constant", "ConstantOfShape", "GRU", "LSTM", "RNN", "Trilu"})
"""Of their inputs everything counts."""
LISTED = ELEMENTWISE | REDUCING | BY_CHANNEL | MOVING | PRODUCTS | WHOLE
_OF_SIZES = frozenset(
    {
        *("Cast", "Concat", "Gather", "Identity", "Mul", "Reshape", "Slice", "Split", "Squeeze"),
        *("Unsqueeze",),
    }
)
"""What they make of a size is a multiple of a power of the batch, as that is."""


class Values:
    """``shapes`` are those at the first of ``ROWS``; ``grows``: the axes that are longer at the second;
    ``by_row``: what lies row of the batch by row in memory; ``sizes``: values at both."""

    def __init__(self, body: onnx.ModelProto) -> None:
        self.body, self.nodes = body, list(body.graph.node)
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in body.graph.initializer}
        self.sizes: dict[str, tuple[Array, Array]] = {}
        self.opaque = set[str]()
        found = [self.constants | self._run(rows) for rows in ROWS]
        if any(value.dtype.kind not in "biufcV" for value in found[0].values()):
            raise ArchiveError("the graph holds text; exported graphs have none")
        self.shapes = {name: value.shape for name, value in found[0].items()}
        self.dtypes = {name: value.dtype for name, value in found[0].items()}
        later = {name: value.shape for name, value in found[1].items()}
        self.grows = {name: self._growing(name, later[name]) for name in self.shapes}
        self.by_row = {
            name
            for name, axes in self.grows.items()
            if axes == {0} and self.shapes[name][0] * ROWS[1] == later[name][0] * ROWS[0]
        }
        self._maps: dict[str, tuple[list[Array], list[int]]] = {}
        domains = {entry.domain: entry.version for entry in body.opset_import}
        self._known = domains.get("") == OPSET and "ai.onnx" not in domains  # another name of the same
        for node in self.nodes:
            self._settle(node, *found)

    def alike(self, name: str, found: Array, join: Callable[..., Array]) -> Array:
        """What was ``found`` of each element of a value, joined so that it holds at every size of the batch:
        for all rows alike, or where rows lie otherwise, along all axes up to the last that grows."""
        if not found.size:
            return found
        if name in self.by_row:
            one = join(found.reshape(ROWS[0], -1), axis=0, keepdims=True)
            return np.broadcast_to(one, (ROWS[0], one.size)).reshape(found.shape)
        loose = tuple(range(max(self.grows[name], default=-1) + 1))
        return np.broadcast_to(join(found, axis=loose, keepdims=True), found.shape)

    def moved(self, node: NodeProto) -> tuple[list[Array], list[int]]:
        """Of a node of ``MOVING``: for each output the place of each element among those of the inputs, one
        behind the other, from 1 on, 0 for one that is none of them; and where each input begins."""
        key = next(filter(None, node.output))
        if key not in self._maps:
            self._maps[key] = self._move(node)
        return self._maps[key]

    def axes(self, node: NodeProto) -> tuple[int, ...]:
        """The axes along which a node of ``ALONG_AXES`` or ``REDUCING`` works."""
        rank = len(self.shapes[node.input[0]])
        match node.op_type:
            case "Concat" | "Softmax" | "LogSoftmax" | "Split" | "Gather":
                usual = -1 if node.op_type.endswith("max") else 0
                axes: Sequence[int] = [attribute(node, "axis", usual)]
            case "LayerNormalization":
                axes = range(attribute(node, "axis", -1) % rank, rank)
            case "Slice":
                axes = self._given(node, 3, range(len(self.constants[node.input[1]])))
            case "Tile":
                axes = np.flatnonzero(self.constants[node.input[1]] != 1).tolist()
            case "Pad":
                pads = np.any(self.constants[node.input[1]].reshape(2, -1), axis=0)
                given = self._given(node, 3, range(rank))
                axes = [axis for axis, padded in zip(given, np.ravel(pads), strict=True) if padded]
            case _:
                named = self._given(node, 1, attribute(node, "axes", []))
                axes = named or ([] if attribute(node, "noop_with_empty_axes", 0) else range(rank))
        return tuple(axis % rank for axis in axes)

    def _given(self, node: NodeProto, place: int, usual: Sequence[int]) -> Sequence[int]:
        there = len(node.input) > place and node.input[place]
        return self.constants[node.input[place]].tolist() if there else usual

    def _growing(self, name: str, later: tuple[int, ...]) -> frozenset[int]:
        if len(later) != len(self.shapes[name]):
            raise ArchiveError(f"how many dimensions {name!r} has depends on the batch")
        return frozenset(i for i, (a, b) in enumerate(zip(self.shapes[name], later, strict=True)) if a != b)

    def _run(self, rows: int) -> dict[str, Array]:
        """Every value that depends on a node or an input."""
        model = onnx.ModelProto()
        model.CopyFrom(self.body)
        names = [name for node in self.nodes for name in node.output if name]
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        zeros = {}
        for value in model.graph.input:
            kind = value.type.tensor_type
            shape = [rows, *(d.dim_value for d in kind.shape.dim[1:])]
            zeros[value.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))
        return zeros | session(model)(zeros)

    def _settle(self, node: NodeProto, first: dict[str, Array], second: dict[str, Array]) -> None:
        """To which kind the outputs of a node belong."""
        outputs, inputs = [name for name in node.output if name], [name for name in node.input if name]
        if node.op_type == "CastLike":
            inputs = inputs[:1]  # of the other only the type counts
        fixed = not any(name not in self.constants and name not in self.sizes for name in inputs)
        loose = self.sizes.keys() - self.constants.keys()
        sized = [place for place, name in enumerate(node.input) if name in loose]
        whole = all(first[name].dtype == np.int64 for name in outputs)  # smaller ones overflow
        listed = self._known and not node.domain and not self.opaque.intersection(inputs)
        if listed and node.op_type == "Shape" and inputs[0] not in self.constants:
            self._settle_sizes({name: (first[name], second[name]) for name in outputs})
        elif listed and node.op_type in LISTED and fixed and not sized:
            self.constants |= {name: first[name] for name in outputs}
        elif listed and fixed and self._keeps_sizes(node, sized) and whole:
            self._settle_sizes({name: (first[name], second[name]) for name in outputs})
        elif not (
            listed
            and node.op_type in LISTED
            and (not sized or (node.op_type, sized) in _SHAPED)
            and all(self.grows[name] and first[name].size for name in outputs)
            and self._regular(node)
        ):
            self.opaque.update(outputs)

    def _settle_sizes(self, found: dict[str, tuple[Array, Array]]) -> None:
        """Those that are one at both batches are so at each, and constants besides."""
        self.sizes |= found
        self.constants |= {name: one for name, (one, other) in found.items() if np.array_equal(one, other)}

    def _keeps_sizes(self, node: NodeProto, sized: list[int]) -> bool:
        return node.op_type in _OF_SIZES and (node.op_type in ("Concat", "Mul") or sized == [0])

    def _regular(self, node: NodeProto) -> bool:
        """Whether each row of what a listed node gives depends on the same row of what it reads, in the same
        way at every size of the batch."""
        data, *others = node.input
        fixed = all(not name or name in self.constants for name in others)
        rank, along = len(self.shapes[data]), self.grows[data]
        match node.op_type:
            case "MatMul":
                grown = self.grows[others[0]]
                ranks = rank, len(self.shapes[others[0]])
                regular = min(ranks) > 1 and rank - 1 not in along and ranks[1] - 2 not in grown
            case "Gemm":
                regular = fixed and not attribute(node, "transA", 0) and 1 not in along
            case op if op in BY_CHANNEL:
                regular = fixed and along <= {0} and len(node.output) == 1 and self._eval(node)
            case "LayerNormalization":
                regular = fixed and len(node.output) == 1 and not along.intersection(self.axes(node))
            case "Gather" if others[0] not in self.constants:
                regular = not along.intersection(self.axes(node))
            case "Concat":
                axes = set(self.axes(node))
                regular = not any(axes & self.grows[name] for name in node.input)
            case op if op in ALONG_AXES | REDUCING:
                regular = fixed and not along.intersection(self.axes(node))
            case "Reshape" | "Expand":
                regular = fixed or others[0] in self.sizes
            case op if op in MOVING:
                regular = fixed
            case _:
                regular = True
        return regular

    def _eval(self, node: NodeProto) -> bool:
        """Whether a layer that reads channels leaves rows and channels apart."""
        if node.op_type != "Resize":
            return not attribute(node, "training_mode", 0)
        shape, scales = self.shapes[node.input[0]], self.constants.get(node.input[2], np.ones(2))
        axes = [axis % len(shape) for axis in attribute(node, "axes", ())]
        cropped = attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
        apart = min(axes) > 1 if axes else bool((scales[:2] == 1).all())
        return apart and not cropped and shape[1] == self.shapes[node.output[0]][1]

    def _move(self, node: NodeProto) -> tuple[list[Array], list[int]]:
        alone, places, starts = NodeProto(), {}, [1]
        alone.CopyFrom(node)
        if node.op_type == "Pad" and len(node.input) > 2:
            alone.input[2] = ""  # zero, which is no place
        data = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        for number, name in enumerate(data):
            alone.input[number] = f"data {number}"
            count = prod(self.shapes[name])
            found = np.arange(starts[-1], starts[-1] + count, dtype=np.float64)  # a type that every one takes
            places[alone.input[number]] = found.reshape(self.shapes[name])
            starts.append(starts[-1] + count)
        given = [name for name in alone.input if name and name not in places]
        known = {n: self.constants[n] if n in self.constants else self.sizes[n][0] for n in given}
        kind, outputs = onnx.TensorProto.DOUBLE, [name for name in node.output if name]
        graph = helper.make_graph(
            [alone],
            "moved",
            [helper.make_tensor_value_info(name, kind, list(a.shape)) for name, a in places.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(np.array(a, order="C"), name) for name, a in known.items()],
        )
        opsets, version = self.body.opset_import, self.body.ir_version
        made = session(helper.make_model(graph, opset_imports=opsets, ir_version=version))(places)
        return [made[name].astype(np.int64) for name in outputs], starts


_SHAPED = (("Reshape", [1]), ("Expand", [1]), ("ConstantOfShape", [0]))
"""The parameters that may be sizes."""


def attribute(node: NodeProto, name: str, usual: Any) -> Any:
    """An attribute of a node, or what it is unless given."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), usual)
