"""Feature groups: which neurons belong together, found while a trunk is traced."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import lcm

from eideticnet.calls import Call
from eideticnet.errors import UnsupportedError
from eideticnet.program import Features, Run


class Retrace(Exception):
    """A layer's columns turned out to form larger neurons, or several tiles; with that noted in
    the ``Layouts``, the trunk has to be traced anew."""


@dataclass
class Layouts:
    """What later operations told of the columns that a layer writes, by the layer's path:
    ``units``, columns that only make sense together (an attention head, a group of a grouped
    convolution), and ``tiles``, equal parts that an operation takes apart (queries, keys, values).
    What layers write that write a ``single`` number is tried as a neuron, then as ``shared`` by all."""

    units: dict[str, int] = field(default_factory=dict)
    tiles: dict[str, int] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    shared: frozenset[str] = frozenset()

    def may_share(self, path: str) -> bool:
        """Whether the one number that the layer ``path`` writes is taken for no neuron."""
        self.single.add(path)
        return path in self.shared


@dataclass
class Groups:
    """A union-find over the groups that layers write: neurons that an operation combines one by
    one belong together."""

    layouts: Layouts
    capacity: dict[str, int] = field(default_factory=dict)
    _parent: dict[str, str] = field(default_factory=dict)
    _read_by: dict[str, Features] = field(default_factory=dict)

    def written(self, path: str, columns: int, dim: int) -> Features:
        """The features that the layer ``path`` writes into ``columns`` along ``dim``."""
        unit, tile = self.layouts.units.get(path, 1), self.layouts.tiles.get(path, 1)
        if columns % (unit * tile):
            raise UnsupportedError(
                f"layer {path!r}: {columns} columns don't divide into neurons of {unit * tile}; "
                "choose a width that the operations after it divide evenly"
            )
        if path not in self.capacity:
            self.capacity[path], self._parent[path] = columns // (unit * tile), path
        return Features(dim, (Run(path, unit),), tile)

    def read_alike(self, path: str, read: Features) -> None:
        """Every call of the layer ``path`` reads the same group, since it has one set of weights."""
        if not self.join(self._read_by.setdefault(path, read), read):
            raise UnsupportedError(
                f"layer {path!r} is called on values whose features do not correspond; "
                "use a layer of its own for each"
            )

    def join(self, a: Features, b: Features) -> bool:
        """Make the groups of two values one; False if their features do not correspond."""
        if a.dim != b.dim or a.tile != b.tile or len(a.runs) != len(b.runs):
            return False
        for x, y in zip(a.runs, b.runs, strict=True):
            left, right = self.root(x.group), self.root(y.group)
            if self.capacity[left] * x.repeat != self.capacity[right] * y.repeat:
                return False
            together = lcm(x.repeat, y.repeat)
            if not (self._enlarge(left, together // x.repeat) and self._enlarge(right, together // y.repeat)):
                return False
            first, second = sorted((left, right), key=list(self.capacity).index)
            self._parent[second] = first
        return True

    def need_unit(self, features: Features, columns: int, call: Call) -> None:
        """Make sure that every ``columns`` adjacent columns belong to one neuron."""
        for run in features.runs:
            if not self._enlarge(self.root(run.group), lcm(run.repeat, columns) // run.repeat):
                raise call.refuse(f"takes {columns} columns together that belong to several neurons")

    def need_tile(self, features: Features, parts: int, call: Call) -> None:
        """Make sure that the columns are ``parts`` equal parts, which have the same neurons."""
        if features.tile == parts:
            return
        alone = [p for p in self.capacity if self.root(p) == self.root(features.runs[0].group)]
        divides = self.capacity[alone[0]] * features.runs[0].repeat % parts == 0
        if features.tile > 1 or len(features.runs) > 1 or len(alone) > 1 or not divides:
            raise call.refuse("takes apart columns that don't come straight from one layer")
        self.layouts.tiles[alone[0]] = parts
        raise Retrace

    def _enlarge(self, root: str, factor: int) -> bool:
        """Make every neuron of a group ``factor`` times as many columns; False if that can't be."""
        if factor == 1:
            return True
        if self.capacity[root] % factor:
            return False
        for path in self.capacity:
            if self.root(path) == root:
                self.layouts.units[path] = self.layouts.units.get(path, 1) * factor
        raise Retrace

    def root(self, group: str) -> str:
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def resolve(self, features: Features) -> Features:
        """The same features with every group named by its root."""
        runs = tuple(Run(self.root(r.group), r.repeat) for r in features.runs)
        return Features(features.dim, runs, features.tile)

    def widths(self) -> dict[str, int]:
        """Capacity of each distinct group."""
        return {g: n for g, n in self.capacity.items() if self.root(g) == g}
