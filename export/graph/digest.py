"""What a value of an ONNX graph is, as one SHA-256: the sub-graph from the inputs to it.

A Merkle hash over tensors, operators, attributes and wiring. Names of nodes, values and initializers
do not count, nor does the order of nodes or whether a tensor is shared; whatever could change a
number does. Imports neither torch nor eideticnet, and believes nothing that ``bundle.json`` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from eideticnet.export.errors import ArchiveError

_PLAIN = {
    *(AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING),
    *(AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS),
}


_PARTS = {
    "ModelProto": {"ir_version", "opset_import", "producer_name", "producer_version", "graph"},
    "GraphProto": {"name", "node", "initializer", "input", "output"},
    "NodeProto": {"name", "domain", "op_type", "doc_string", "input", "output", "attribute"},
}
"""What exported graphs have. A runtime may act on more (functions, metadata), and no digest would show it."""


def digests(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, str]:
    """Hex digest of each of these values. ``ArchiveError`` where the graph has no such value, or
    uses what no exported body does: functions, sub-graphs, sparse or external tensors."""
    for part in (model, model.graph, *model.graph.node):
        strange = {field.name for field, _ in part.ListFields()} - _PARTS[part.DESCRIPTOR.name]
        if strange:
            raise ArchiveError(f"the graph holds {', '.join(sorted(strange))}; exported graphs have none")
    known = _leaves(model.graph)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        unknown = [name for name in node.input if name and name not in known]
        if unknown:
            raise ArchiveError(f"node {node.name!r} reads {unknown[0]!r}, which nothing before it makes")
        made = node_digest(node, opsets, [known[name] if name else "" for name in node.input])
        for index, output in enumerate(node.output):
            if output:
                _define(known, output, hashed(made, index))
    missing = [name for name in names if name not in known]
    if missing:
        raise ArchiveError(f"the graph has no value {missing[0]!r}")
    return {name: known[name] for name in names}


def _leaves(graph: onnx.GraphProto) -> dict[str, str]:
    known: dict[str, str] = {}
    for tensor in graph.initializer:
        _define(known, tensor.name, tensor_digest(tensor))
    for name, digest in input_digests(graph).items():
        _define(known, name, digest)
    return known


def input_digests(graph: onnx.GraphProto) -> dict[str, str]:
    """The digest of each input, by its name."""
    known: dict[str, str] = {}
    for index, value in enumerate(graph.input):
        kind = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        _define(known, value.name, hashed("input", index, kind.elem_type, shape))
    return known


def _define(known: dict[str, str], name: str, digest: str) -> None:
    if name in known:  # a runtime would take one of them, we don't know which
        raise ArchiveError(f"the graph defines {name!r} twice")
    known[name] = digest


def tensor_digest(tensor: TensorProto) -> str:
    """SHA-256 over type, shape and bytes, however they are stored."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ArchiveError(
            f"the graph keeps {tensor.name!r} outside the file; expected one self-contained file"
        )
    try:
        values = numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"the tensor {tensor.name!r} can't be read: {error}") from error
    return hashed("tensor", tensor.data_type, list(tensor.dims), hashlib.sha256(values.tobytes()).hexdigest())


def node_digest(node: NodeProto, opsets: Mapping[str, int], inputs: Sequence[str]) -> str:
    """SHA-256 over operator, attributes and the digests of the inputs."""
    attributes = sorted((a.name, a.type, _attribute(node, a)) for a in node.attribute)
    return hashed(node.domain, opsets.get(node.domain, 0), node.op_type, attributes, inputs)


def _attribute(node: NodeProto, attribute: AttributeProto) -> str:
    if attribute.type == AttributeProto.TENSOR:
        return tensor_digest(attribute.t)
    if attribute.type not in _PLAIN or attribute.ref_attr_name:
        raise ArchiveError(
            f"node {node.name!r} has an attribute {attribute.name!r} of a kind that no exported graph has"
        )
    return repr(helper.get_attribute_value(attribute))


def hashed(*parts: object) -> str:
    """SHA-256 over what Python shows of ``parts``."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
