"""One loader over the rows of several tasks, labels numbered through; what a router learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import Sampler, WeightedRandomSampler

from eideticnet.data.plain import batches
from eideticnet.data.rows import Loader, Rows

Pair = tuple[Tensor, Tensor]


def interleaved(
    parts: Sequence[Rows], offsets: Sequence[int], balance: Sequence[int] | None = None
) -> Loader:
    """One loader in whose batches the rows of all ``parts`` are mixed, the labels of each shifted by its
    offset.

    With ``balance``, a weight for each part, as many rows are drawn as the parts have, so often from
    each as its weight says, however many it has.
    """
    size, whole = parts[0].batch_size, [part.tensors for part in parts]
    pairs = [pair for pair in whole if pair is not None]
    if len(pairs) < len(parts):
        return Interleaved(parts, offsets, size, balance)
    x, y = _joined([(x, y + offset) for (x, y), offset in zip(pairs, offsets, strict=True)])
    return batches(x, y, size, _weighted([len(y) for _, y in pairs], balance) if balance else None)


def _weighted(lengths: Sequence[int], weights: Sequence[float]) -> Sampler[int]:
    """As many draws as there are rows, part i of them with probability ``weights[i]`` over their sum."""
    parts = zip(lengths, weights, strict=True)
    each = torch.cat([torch.full((n,), weight / n, dtype=torch.double) for n, weight in parts])
    return WeightedRandomSampler(each.tolist(), sum(lengths))


@dataclass(frozen=True)
class Interleaved:
    """What the loaders of ``parts`` give, in batches of ``size`` that are mixed again in each pass. Each row
    is drawn from a part with a probability proportional to the rows that it has left or, with ``balance``,
    to its weight; then a part that is at its end begins again."""

    parts: Sequence[Rows]
    offsets: Sequence[int]
    size: int
    balance: Sequence[int] | None = None

    def __len__(self) -> int:
        return -(-sum(int(part.counts.sum()) for part in self.parts) // self.size)

    def __iter__(self) -> Iterator[Pair]:
        counts = torch.stack([part.counts.sum() for part in self.parts])
        if self.balance is None:
            owners = torch.arange(len(counts)).repeat_interleave(counts)[torch.randperm(int(counts.sum()))]
        else:
            weights = torch.tensor(self.balance, dtype=torch.double)
            owners = torch.multinomial(weights, int(counts.sum()), replacement=True)
        seed = int(torch.randint(2**62, ()))
        repeats = self.balance is not None
        streams = [_Stream(part, seed, i, repeats=repeats) for i, part in enumerate(self.parts)]
        for batch in owners.split(self.size):
            wanted = torch.bincount(batch, minlength=len(streams)).tolist()
            taken = [
                (x, y + offset)
                for stream, offset, n in zip(streams, self.offsets, wanted, strict=True)
                for x, y in stream.take(n)
            ]
            if taken:
                yield _joined(taken)


class _Stream:
    """The rows of one part, taken a few at a time; pass after pass if it ``repeats``."""

    def __init__(self, part: Rows, *seed: object, repeats: bool) -> None:
        passes = count() if repeats else range(1)
        self._batches = (pair for number in passes for pair in part.batches(*seed, number))
        self._rest: Pair | None = None

    def take(self, wanted: int) -> Iterator[Pair]:
        """``wanted`` rows in pieces, or as many as there are."""
        while wanted:
            rest = self._rest or next(self._batches, None)
            if rest is None:
                return
            piece, (x, y) = (rest[0][:wanted], rest[1][:wanted]), rest
            self._rest = (x[wanted:], y[wanted:]) if len(y) > wanted else None
            wanted -= len(piece[1])
            yield piece


def _joined(pairs: Sequence[Pair]) -> Pair:
    """All rows, where the first are."""
    device = pairs[0][0].device
    x, y = zip(*pairs, strict=True)
    return torch.cat([part.to(device) for part in x]), torch.cat([part.to(device) for part in y])
