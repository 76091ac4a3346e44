"""Which columns of a tensor belong to which neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor

from eideticnet.program import Features, Widths


def lie(features: Features, widths: Widths) -> list[Sequence[int]]:
    """Where the columns of each run lie in an owner's piece of a value: those of all tiles, one after the
    other. Plain numbers, since tensors have none while a module is exported."""
    runs = features.runs * features.tile
    ends = list(accumulate((widths[r.group] * r.repeat for r in runs), initial=0))
    found: list[Sequence[int]] = [range(start, end) for start, end in pairwise(ends)]
    if features.placed:
        keys = [  # more neurons than the trunk had lie behind the last of these
            (run.places[min(c, len(run.places) - 1)], c)
            for run, columns in zip(runs, found, strict=True)
            for c in range(len(columns))
        ]
        place = {column: i for i, column in enumerate(sorted(range(len(keys)), key=keys.__getitem__))}
        found = [[place[column] for column in columns] for columns in found]
    return found


def kept_columns(features: Features, widths: Widths, keep: Mapping[str, Tensor]) -> Tensor:
    """Indices of the columns that the kept neurons fill, in the order in which they lie then; ``keep`` holds
    sorted indices by group, a group that is not in it is kept whole."""
    kept = list[Tensor]()
    for run, columns in zip(features.runs * features.tile, lie(features, widths), strict=True):
        where = torch.tensor(columns, dtype=torch.int64).reshape(-1, run.repeat)
        kept.append((where[keep[run.group].cpu()] if run.group in keep else where).flatten())
    fewer = {**widths, **{group: len(neurons) for group, neurons in keep.items()}}
    order = torch.tensor([c for columns in lie(features, fewer) for c in columns], dtype=torch.int64)
    return torch.cat(kept)[order.argsort()]


def by_neuron(features: Features, widths: Widths, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """``values`` (columns, ...) taken apart: for each run its group and (n, whatever a neuron has)."""
    columns, each = lie(features, widths), prod(values.shape[1:])
    for i, run in enumerate(features.runs):
        mine = values[[c for tile in columns[i :: len(features.runs)] for c in tile]]
        mine = mine.reshape(features.tile, widths[run.group], run.repeat * each)
        yield run.group, mine.transpose(0, 1).flatten(1)


def chosen(read: Features, written: Features, of: Sequence[int], widths: Widths) -> list[int]:
    """Which columns of an owner's piece of ``read`` are its columns of ``written``, whose runs are those of
    ``read`` that ``of`` numbers."""
    before, found = lie(read, widths), dict[int, int]()
    for i, after in zip(of, lie(written, widths), strict=True):
        found |= zip(after, before[i], strict=True)
    return [found[column] for column in range(len(found))]
