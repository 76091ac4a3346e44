"""Feature groups: which neurons belong together, found while a trunk is traced."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import lcm

from eideticnet.errors import UnsupportedError
from eideticnet.program import Features, Run
from eideticnet.rules.calls import Call


class Retrace(Exception):
    """A layer's columns turned out to form larger neurons, or several tiles; with that noted in
    the ``Layouts``, the trunk has to be traced anew."""


@dataclass
class Layouts:
    """What later operations told of the columns that a layer writes, by the layer's path:
    ``units``, columns that only make sense together (an attention head, a group of a grouped
    convolution), ``tiles``, equal parts that an operation takes apart (queries, keys, values), and ``cuts``,
    columns of a tile from which on the neurons are a group of their own, ``path[column:]``.
    What layers write that write a ``single`` number is tried as a neuron, then as ``shared`` by all.
    Parameters of which parts are used ``apart``."""

    units: dict[str, int] = field(default_factory=dict)
    tiles: dict[str, int] = field(default_factory=dict)
    cuts: dict[str, set[int]] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    shared: frozenset[str] = frozenset()
    apart: set[str] = field(default_factory=set)

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
    _written: dict[str, tuple[str, int]] = field(default_factory=dict)
    _parent: dict[str, str] = field(default_factory=dict)
    _read_by: dict[str, Features] = field(default_factory=dict)

    def written(self, path: str, columns: int, dim: int) -> Features:
        """The features that the layer ``path`` writes into ``columns`` along ``dim``."""
        tile, cuts = self.layouts.tiles.get(path, 1), sorted(self.layouts.cuts.get(path, ()))
        runs = []
        for start, end in pairwise((0, *cuts, columns // tile)):
            group = f"{path}[{start}:]" if start else path
            unit = self.layouts.units.get(group, 1)
            if columns % tile or (end - start) % unit:
                raise UnsupportedError(
                    f"layer {path!r}: {columns} columns don't divide into neurons of {unit * tile}; "
                    "choose a width that the operations after it divide evenly"
                )
            if group not in self.capacity:
                self.capacity[group], self._parent[group] = (end - start) // unit, group
                self._written[group] = path, start
            runs.append(Run(group, unit))
        return Features(dim, tuple(runs), tile)

    def read_alike(self, path: str, read: Features) -> None:
        """Every call of the layer ``path`` reads the same group, since it has one set of weights."""
        if not self.join(self._read_by.setdefault(path, read), read):
            raise UnsupportedError(
                f"layer {path!r} is called on values whose features do not correspond; "
                "use a layer of its own for each"
            )

    def join(self, a: Features, b: Features) -> bool:
        """Make the groups of two values one; False if their features do not correspond."""
        if a.dim != b.dim or a.raw or b.raw:
            return a.raw and b.raw
        if a.tile != b.tile or len(a.runs) != len(b.runs):
            a, b = (Features(f.dim, f.runs * f.tile) for f in (a, b))
        ends, others = self._ends(a), self._ends(b)
        if ends[-1] != others[-1] or not all(
            self._cut(features, end)
            for features, there in ((a, others), (b, ends))
            for end in (there if len(ends) > 1 or len(others) > 1 else ())
        ):
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

    def need_tile(self, features: Features, parts: int, call: Call) -> Features:
        """The features as ``parts`` equal parts, which have the same neurons."""
        if features.tile == parts:
            return features
        if self.divides(features, parts):
            self.layouts.tiles[self.root(features.runs[0].group)] = parts
            raise Retrace
        if features.tile == 1 < len(features.runs) and self._ends(features)[-1] % parts == 0:
            size = self._ends(features)[-1] // parts
            first, *others = (self.part(features, i * size, (i + 1) * size, call) for i in range(parts))
            if all(self.join(first, other) for other in others):
                return Features(features.dim, first.runs, parts)
        raise call.refuse("takes apart columns that don't come straight from one layer")

    def divides(self, features: Features, parts: int) -> bool:
        """Whether the columns are, or may become, equal parts of what one layer writes."""
        if features.tile == parts:
            return True
        alone = [p for p in self.capacity if self.root(p) == self.root(features.runs[0].group)]
        even = self.capacity[alone[0]] * features.runs[0].repeat % parts == 0
        cut = self._written[alone[0]][0] in self.layouts.cuts
        return features.tile == len(features.runs) == len(alone) == 1 and even and not cut

    def part(self, features: Features, start: int, end: int, call: Call) -> Features:
        """The features of some adjacent columns, which are groups of their own."""
        if not (self._cut(features, start) and self._cut(features, end)):
            raise call.refuse(
                "takes apart columns that belong to one neuron", "widths that everything after divides evenly"
            )
        runs, ends = features.runs * features.tile, self._ends(features)
        return Features(features.dim, tuple(r for r, e in zip(runs, ends, strict=True) if start < e <= end))

    def _ends(self, features: Features) -> list[int]:
        """Where each run ends, in columns of the plain trunk."""
        runs = features.runs * features.tile
        return list(accumulate(self.capacity[self.root(r.group)] * r.repeat for r in runs))

    def _cut(self, features: Features, column: int) -> bool:
        """Make sure that a group begins at ``column``; False if that is amid a neuron."""
        ends = self._ends(features)
        if column in (0, *ends):
            return True
        i = next(i for i, end in enumerate(ends) if column < end)
        run = features.runs[i % len(features.runs)]
        neurons, rest = divmod(column - (0, *ends)[i], run.repeat)
        if rest:
            return False
        for group, (path, start) in self._written.items():
            if self.root(group) == self.root(run.group):
                unit = self.layouts.units.get(group, 1)
                self.layouts.cuts.setdefault(path, set()).add(start + neurons * unit)
                self.layouts.units[f"{path}[{start + neurons * unit}:]"] = unit
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
