"""Where each owner's columns are in a value that holds all owners'."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eideticnet.columns import Widths, kept_columns
from eideticnet.program import Features


class Places:
    """``widths``: the neurons of each owner by group, owners in the order of learning.

    A whole value is laid out like the plain trunk's: run by run, in each run owner by owner, all
    that ``tile`` times. So what the trunk does to its values can be done to whole ones.
    """

    def __init__(self, widths: Mapping[str, Widths]) -> None:
        self.widths = {owner: dict(own) for owner, own in widths.items()}
        self.whole: dict[str, int] = {}
        self.neurons: dict[str, dict[str, Tensor]] = {}
        for owner, own in self.widths.items():
            self.neurons[owner] = {}
            for group, count in own.items():
                start = self.whole.get(group, 0)
                self.neurons[owner][group] = torch.arange(start, start + count)
                self.whole[group] = start + count

    def width(self, features: Features) -> int:
        """Columns of a whole value."""
        return features.columns(self.whole)

    def has(self, features: Features, owner: str) -> bool:
        """Whether ``owner`` has a part of such values; of raw ones everyone has."""
        return features.raw or features.columns(self.widths[owner]) > 0

    def columns(self, features: Features, owner: str) -> Tensor:
        """Where the owner's columns are, in the order of its piece."""
        return kept_columns(features, self.whole, self.neurons[owner])

    def cut(self, value: Tensor, features: Features, owner: str) -> Tensor:
        """The owner's piece of a whole value."""
        return _select(value, features.dim, self.columns(features, owner))

    def join(self, pieces: Mapping[str, Tensor], features: Features) -> Tensor:
        """The whole value of which these are the pieces, by owner in the order of learning."""
        order = torch.cat([self.columns(features, owner) for owner in pieces])
        return _select(torch.cat(list(pieces.values()), features.dim), features.dim, order.argsort())


def _select(value: Tensor, dim: int, columns: Tensor) -> Tensor:
    """A slice where it is one: exporters turn that into something cheaper than a gather."""
    start, count = int(columns[0]), len(columns)
    if torch.equal(columns, torch.arange(start, start + count)):
        return value if count == value.shape[dim] else value.narrow(dim, start, count)
    return value.index_select(dim, torch.tensor(columns.tolist(), device=value.device))
