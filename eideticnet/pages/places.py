"""Where each owner's columns are in a value that holds all owners'.

Plain numbers throughout: while a module is exported its tensors have no values to compute places with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eideticnet.columns import lie
from eideticnet.program import Features, Widths


class Places:
    """``widths``: the neurons of each owner by group, owners in the order of learning. ``slots``: those that
    there are in all, just those of the owners unless given.

    A whole value is laid out like the plain trunk's: run by run, in each run owner by owner, all
    that ``tile`` times; where runs lie among one another, as if all owners were one. So what the trunk
    does to its values can be done to whole ones.
    """

    def __init__(self, widths: Mapping[str, Widths], slots: Widths | None = None) -> None:
        self.widths = {owner: dict(own) for owner, own in widths.items()}
        self.whole: dict[str, int] = {}
        self.starts: dict[str, dict[str, int]] = {}
        self._columns: dict[tuple[Features, str], list[int]] = {}
        for owner, own in self.widths.items():
            self.starts[owner] = {group: self.whole.get(group, 0) for group in own}
            self.whole |= {group: self.whole.get(group, 0) + count for group, count in own.items()}
        self.whole = dict(slots or self.whole)

    def width(self, features: Features) -> int:
        """Columns of a whole value."""
        return features.columns(self.whole)

    def has(self, features: Features, owner: str) -> bool:
        """Whether ``owner`` has a part of such values; of raw ones everyone has."""
        return features.raw or features.columns(self.widths[owner]) > 0

    def columns(self, features: Features, owner: str) -> list[int]:
        """Where the owner's columns are, in the order of its piece."""
        if (features, owner) not in self._columns:
            self._columns[features, owner] = self._found(features, owner)
        return self._columns[features, owner]

    def _found(self, features: Features, owner: str) -> list[int]:
        found, runs = dict[int, int](), features.runs * features.tile
        mine, whole = lie(features, self.widths[owner]), lie(features, self.whole)
        for run, own, all_of_it in zip(runs, mine, whole, strict=True):
            first = self.starts[owner][run.group] * run.repeat
            found |= zip(own, all_of_it[first : first + len(own)], strict=True)
        return [found[column] for column in range(len(found))]

    def parts(self, value: Tensor, features: Features) -> dict[str, Tensor]:
        """The pieces that make up a whole value, by owner; by one operation where they lie side by side."""
        lie = {o: self.columns(features, o) for o in self.widths if self.has(features, o)}
        if _consecutive([column for columns in lie.values() for column in columns]):
            sizes = [len(columns) for columns in lie.values()]
            free = self.width(features) - sum(sizes)
            pieces = value.split([*sizes, free] if free else sizes, features.dim)
            return dict(zip(lie, pieces, strict=False))
        return {owner: _select(value, features.dim, columns) for owner, columns in lie.items()}

    def join(self, pieces: Mapping[str, Tensor], features: Features) -> Tensor:
        """The whole value of which these are the pieces, by owner in the order of learning."""
        lie = [column for owner in pieces for column in self.columns(features, owner)]
        order = sorted(range(len(lie)), key=lie.__getitem__)
        return _select(torch.cat(list(pieces.values()), features.dim), features.dim, order)


def _select(value: Tensor, dim: int, columns: Sequence[int]) -> Tensor:
    """These columns; as a slice where they are one, which is cheaper than to gather."""
    if _consecutive(columns):
        start, count = columns[0], len(columns)
        return value if count == value.shape[dim] else value.narrow(dim, start, count)
    return value.index_select(dim, torch.tensor(columns, device=value.device))


def _consecutive(columns: Sequence[int]) -> bool:
    return list(columns) == list(range(columns[0], columns[0] + len(columns)))
