"""Feature groups: which neurons belong together, found while a trunk is traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import lcm

from eideticnet.errors import UnsupportedError
from eideticnet.program import Features, Run
from eideticnet.rules.calls import Call


class Retrace(Exception):
    """A layer's columns turned out to form larger neurons, or several tiles; with that noted in
    the ``Layouts``, the trunk has to be traced again."""


def group_of(path: str, part: Sequence[int]) -> str:
    """What the neurons in these columns, in any order, of what a layer writes are called."""
    return f"{path}[{min(part)}:]" if min(part) else path


@dataclass
class Layouts:
    """What later operations told of the columns that a layer writes, by the layer's path:
    ``units``, columns that only make sense together (an attention head, a group of a grouped
    convolution), ``tiles``, equal parts that an operation takes apart (queries, keys, values), and
    ``parts``, columns of a tile whose neurons are a group of their own, ``path[column:]`` for the first.
    What layers write that write a ``single`` number is tried as a neuron, then as ``shared`` by all.
    Parameters of which parts are used ``apart``. ``shuffled``: the neurons of channels that are shuffled stay
    apart, each of which has a place, and those of a grouped convolution are several convolutions'."""

    units: dict[str, int] = field(default_factory=dict)
    tiles: dict[str, int] = field(default_factory=dict)
    parts: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    shared: frozenset[str] = frozenset()
    apart: set[str] = field(default_factory=set)
    shuffled: bool = False

    def cut(self, path: str, columns: set[int]) -> None:
        """Note that of what the layer ``path`` writes these columns are apart from all others."""
        parts, self.parts[path] = self.parts[path], []
        for part in parts:
            unit = self.units.get(group_of(path, part), 1)
            apart = [tuple(c for c in part if (c in columns) is inside) for inside in (True, False)]
            self.parts[path] += filter(None, apart)
            self.units |= {group_of(path, columns): unit for columns in apart if columns}
        self.parts[path].sort(key=min)

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
    _written: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    _parent: dict[str, str] = field(default_factory=dict)
    _read_by: dict[str, Features] = field(default_factory=dict)

    def written(self, path: str, columns: int, dim: int) -> Features:
        """The features that the layer ``path`` writes into ``columns`` along ``dim``."""
        tile = self.layouts.tiles.get(path, 1)
        parts = self.layouts.parts.get(path) or [tuple(range(columns // tile))]
        runs = []
        for part in parts:
            group = group_of(path, part)
            unit = self.layouts.units.get(group, 1)
            if columns % tile or len(part) % unit:
                raise UnsupportedError(
                    f"layer {path!r}: {columns} columns don't divide into neurons of {unit * tile}; "
                    "choose a width that the operations after it divide evenly"
                )
            if group not in self.capacity:
                self.capacity[group], self._parent[group] = len(part) // unit, group
                self._written[group] = path, part
            runs.append(Run(group, unit))
        once = _laid(dim, runs, parts)
        return self.side_by_side(dim, [once] * tile) if once.placed else Features(dim, tuple(runs), tile)

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
        if a == b:
            return True
        places, others = self._places(a), self._places(b)
        if sum(map(len, places)) != sum(map(len, others)):
            return False
        apart = self.separate(a, others) and self.separate(b, places)
        beside = {frozenset(p): (run, p) for run, p in zip(b.runs * b.tile, others, strict=True)}
        if not apart or beside.keys() != set(map(frozenset, places)):
            return False
        for x, here in zip(a.runs * a.tile, places, strict=True):
            y, there = beside[frozenset(here)]
            if tuple(here) != tuple(there) and not self._reorder(y, there, x, here):
                return False
            left, right = self.root(x.group), self.root(y.group)
            together = lcm(x.repeat, y.repeat)
            if not (self._enlarge(left, together // x.repeat) and self._enlarge(right, together // y.repeat)):
                return False
            first, second = sorted((left, right), key=list(self.capacity).index)
            self._parent[second] = first
        return True

    def need_unit(self, features: Features, columns: int, call: Call) -> None:
        """Make sure that every ``columns`` adjacent columns belong to one neuron."""
        for run in features.runs:
            whole = columns == 1 or not features.placed
            if not whole or not self._enlarge(self.root(run.group), lcm(run.repeat, columns) // run.repeat):
                raise call.refuse(f"takes {columns} columns together that belong to several neurons")

    def need_tile(self, features: Features, parts: int, call: Call) -> Features:
        """The features as ``parts`` equal parts, which have the same neurons."""
        if features.tile == parts:
            return features
        if self.divides(features, parts):
            self.layouts.tiles[self.root(features.runs[0].group)] = parts
            raise Retrace
        columns = sum(map(len, self._places(features)))
        if features.tile == 1 < len(features.runs) and columns % parts == 0 and not features.placed:
            size = columns // parts
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
        cut = features.placed or self._written[alone[0]][0] in self.layouts.parts
        return features.tile == len(features.runs) == len(alone) == 1 and even and not cut

    def part(self, features: Features, start: int, end: int, call: Call) -> Features:
        """The features of some adjacent columns, which are groups of their own."""
        if not self.separate(features, [range(start), range(start, end)]):
            raise call.refuse(
                "takes apart columns that belong to one neuron", "widths that everything after divides evenly"
            )
        return self.chosen(features, range(start, end), call)[0]

    def chosen(self, features: Features, columns: Sequence[int], call: Call) -> tuple[Features, list[int]]:
        """The features of some columns in this order, and which of all runs these are; the columns of a group
        that are left out are another group's."""
        if not columns:
            raise call.refuse("takes none of the features")
        if len(set(columns)) < len(columns):
            raise call.refuse("takes a column of the features several times")
        if not self.separate(features, [columns]):
            raise call.refuse("takes apart columns that belong to one neuron")
        lie = {column: place for place, column in enumerate(columns)}
        runs = zip(features.runs * features.tile, self._places(features), strict=True)
        found = [(i, r, [lie[c] for c in p]) for i, (r, p) in enumerate(runs) if p and p[0] in lie]
        found.sort(key=lambda one: min(one[2]))
        of, chosen, places = zip(*found, strict=True)
        return _laid(features.dim, chosen, places), list(of)

    def side_by_side(self, dim: int, values: Sequence[Features]) -> Features:
        """The features of these values, one after the other."""
        runs, places, start = list[Run](), list[Sequence[int]](), 0
        for features in values:
            mine = self._places(features)
            places += [[start + p for p in run] for run in mine]
            runs += features.runs * features.tile
            start += sum(map(len, mine))
        return _laid(dim, runs, places)

    def _places(self, features: Features) -> list[Sequence[int]]:
        """The columns of the plain trunk at which each run lies, those of all tiles one after the other."""
        if features.placed:
            return [run.places for run in features.runs]
        runs = features.runs * features.tile
        ends = accumulate((self.capacity[self.root(r.group)] * r.repeat for r in runs), initial=0)
        return [range(start, end) for start, end in pairwise(ends)]

    def separate(self, features: Features, parts: Sequence[Sequence[int]]) -> bool:
        """Make sure that the neurons of a group are all in one of these parts of the columns, or in none;
        False if one is half in."""
        part_of = {column: i for i, columns in enumerate(parts) for column in columns}
        divided = dict[str, list[list[int]]]()
        for run, places in zip(features.runs * features.tile, self._places(features), strict=True):
            found = [part_of.get(place, -1) for place in places]
            if len(set(found)) > 1:
                if any(len(set(found[i : i + run.repeat])) > 1 for i in range(0, len(found), run.repeat)):
                    return False
                divided.setdefault(self.root(run.group), []).append(found[:: run.repeat])
        for group, (path, part) in self._written.items():
            for neurons in divided.get(self.root(group), []):
                unit = self.layouts.units.get(group, 1)
                self.layouts.parts.setdefault(path, [part])
                for number in set(neurons):
                    self.layouts.cut(path, {c for i, c in enumerate(part) if neurons[i // unit] == number})
        if divided:
            raise Retrace
        return True

    def _reorder(self, run: Run, places: Sequence[int], other: Run, wanted: Sequence[int]) -> bool:
        """Let the neurons of ``run``, which lie at these places, be counted as those of ``other`` are; False
        if they are the same."""
        size, root = run.repeat, self.root(run.group)
        if size != other.repeat or root == self.root(other.group):
            return False
        there = {tuple(places[i : i + size]): i // size for i in range(0, len(places), size)}
        order = [there.get(tuple(wanted[i : i + size]), -1) for i in range(0, len(wanted), size)]
        if -1 in order:
            return False
        for group, (path, part) in self._written.items():
            if self.root(group) == root:
                unit, parts = self.layouts.units.get(group, 1), self.layouts.parts.setdefault(path, [part])
                parts[parts.index(part)] = tuple(part[n * unit + i] for n in order for i in range(unit))
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
        runs = tuple(replace(r, group=self.root(r.group)) for r in features.runs)
        return Features(features.dim, runs, features.tile)

    def widths(self) -> dict[str, int]:
        """Capacity of each distinct group."""
        return {g: n for g, n in self.capacity.items() if self.root(g) == g}


def _laid(dim: int, runs: Sequence[Run], places: Sequence[Sequence[int]]) -> Features:
    """The features of runs that lie at these places: without them where each begins as the last one ends."""
    if [column for run in places for column in run] == list(range(sum(map(len, places)))):
        return Features(dim, tuple(Run(r.group, r.repeat) for r in runs))
    pairs = zip(runs, places, strict=True)
    return Features(dim, tuple(Run(r.group, r.repeat, tuple(p)) for r, p in pairs))
