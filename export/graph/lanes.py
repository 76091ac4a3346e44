"""What a head of a paged graph is, as one SHA-256 that does not change when an owner joins one of its pages.

Everybody's rows stand in the layers of a page, so a digest of whole tensors changes with every owner. This
one is over the same sub-graph, but of each tensor only those elements count that the head's logits can
depend on, and of what is put side by side or cut apart only the needed columns, by their place in the whole.
Two heads of one digest give the same bits if what their layers multiply by zero is finite (``idle.py``).
Imports neither torch nor eideticnet, and believes nothing that ``bundle.json`` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, numpy_helper

from eideticnet.export.graph.digest import hashed, input_digests, node_digest, tensor_digest
from eideticnet.export.graph.reach import Mask, reach
from eideticnet.export.graph.values import ALONG_AXES, Values

_COLUMNS = ALONG_AXES - {"Pad", "Tile"}
Column = tuple[str, int, int]
"""A column of a value: its digest, its place there, and how many columns there are."""


@dataclass
class Needs:
    """What one value's elements depend on: masks by the names of values, see ``Reach``."""

    needed: dict[str, Mask] = field(default_factory=dict)
    read: dict[str, Mask] = field(default_factory=dict)


def needs(values: Values, head: str) -> Needs:
    """What ``head`` can depend on."""
    found = Needs()
    _note(found.needed, values, head, np.ones(values.shapes[head], np.bool_))
    for node in reversed(values.nodes):
        masks = [found.needed.get(name) for name in node.output if name]
        if all(mask is None for mask in masks) or values.sizes.keys() & set(node.output):
            continue
        if values.opaque.intersection(node.output):
            for name in filter(None, node.input):
                if name not in values.sizes:
                    _note(found.needed, values, name, np.ones(values.shapes[name], np.bool_))
            continue
        shapes = [values.shapes[name] for name in node.output if name]
        given = [np.zeros(n, np.bool_) if m is None else m for n, m in zip(shapes, masks, strict=True)]
        for name, needed, read in reach(node, given, values):
            if needed.any():
                _note(found.needed, values, name, needed)
            _note(found.read, values, name, read)
    return found


def _note(masks: dict[str, Mask], values: Values, name: str, mask: Mask) -> None:
    """Add to a mask, so that it holds at every size of the batch."""
    mask = values.alike(name, mask, np.any)
    masks[name] = masks[name] | mask if name in masks else mask


def lane_digests(values: Values, names: Iterable[str]) -> dict[str, str]:
    """Hex digest of each of these values of a body."""
    return {name: _Digester(values, needs(values, name).needed).of(name) for name in names}


class _Digester:
    """Digests of the values of a graph as far as they are ``needed``."""

    def __init__(self, values: Values, needed: Mapping[str, Mask]) -> None:
        self.values, self.needed = values, needed
        self.opsets = {entry.domain: entry.version for entry in values.body.opset_import}
        self.known = input_digests(values.body.graph)
        self.columns: dict[str, tuple[int, list[Column | None]]] = {}
        for tensor in values.body.graph.initializer:
            if tensor.name in needed:
                self.known[tensor.name] = self._tensor(tensor.name)
        for node in values.nodes:
            if any(name in needed and name not in values.sizes for name in node.output):
                self._add(node)

    def of(self, name: str) -> str:
        """A value's digest; of one that isn't needed, its shape's."""
        if name in self.values.sizes:
            return hashed("size", *(size.tolist() for size in self.values.sizes[name]))
        if name and name not in self.needed:
            shape, grows = self.values.shapes[name], sorted(self.values.grows[name])
            return hashed("unneeded", shape, grows, str(self.values.dtypes[name]))
        if name not in self.known and name in self.columns:
            self.known[name] = self._whole(name)
        return self.known[name] if name else ""

    def _tensor(self, name: str) -> str:
        whole = self.values.constants[name]
        return tensor_digest(numpy_helper.from_array(np.where(self.needed[name], whole, whole.dtype.type(0))))

    def _add(self, node: NodeProto) -> None:
        opaque = self.values.opaque.intersection(node.output)
        axis = None if opaque or node.op_type not in _COLUMNS or node.domain else self._axis(node)
        if axis is not None:
            self._lay(node, axis)
            return
        made = node_digest(node, self.opsets, [self.of(name) for name in node.input])
        for index, output in enumerate(node.output):
            self.known[output] = hashed(made, index)

    def _axis(self, node: NodeProto) -> int | None:
        """The one axis along which columns are moved."""
        if node.op_type == "Gather" and self.values.constants.get(node.input[1], np.array(0)).ndim != 1:
            return None
        axes = self.values.axes(node)
        sizes = [self.values.shapes[name] for name in (node.input[0], *node.output)]
        return axes[0] if len(axes) == 1 and all(0 not in shape for shape in sizes) else None

    def _lay(self, node: NodeProto, axis: int) -> None:
        places, starts = self.values.moved(node)
        data = node.input if node.op_type == "Concat" else node.input[:1]
        sources = [self._columns(name, axis) for name in data]
        outputs = [name for name in node.output if name]
        for output, where in zip(outputs, places, strict=True):
            first = np.moveaxis(where, axis, 0).reshape(where.shape[axis], -1)[:, 0]
            laid = list[Column | None]()
            for place in first.tolist():
                number = int(np.searchsorted(starts, place, side="right")) - 1
                shape = self.values.shapes[data[number]]
                laid.append(sources[number][np.unravel_index(place - starts[number], shape)[axis]])
            self.columns[output] = axis, laid

    def _columns(self, name: str, axis: int) -> list[Column | None]:
        """The columns along ``axis`` that a value has, None in the place of one that isn't needed."""
        width = self.values.shapes[name][axis]
        if name not in self.needed:
            return [None] * width
        if name in self.columns and self.columns[name][0] == axis:
            laid = self.columns[name][1]
        else:
            laid = [(self.of(name), column, width) for column in range(width)]
        wanted = self._wanted(name, axis)
        return [column if of_it else None for column, of_it in zip(laid, wanted, strict=True)]

    def _wanted(self, name: str, axis: int) -> list[bool]:
        mask = self.needed[name]
        return list(np.asarray(mask.any(tuple(i for i in range(mask.ndim) if i != axis))))

    def _whole(self, name: str) -> str:
        """The digest of a value that was laid out of columns: that of another value where it is its equal."""
        axis, _ = self.columns[name]
        laid = self._columns(name, axis)
        there = [(place, column) for place, column in enumerate(laid) if column]
        base, _, width = there[0][1]
        if width == len(laid) and all(column == (base, place, width) for place, column in there):
            return base
        return hashed("columns", axis, len(laid), there)
