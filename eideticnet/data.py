"""Loaders: made from arrays, seeded for each pass, checked, and pooled over tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from eideticnet.errors import DataError
from eideticnet.hashing import tensor_hash
from eideticnet.seeding import derive, seeded

Loader = DataLoader[Any]


def batches(x: Tensor, y: Tensor, batch_size: int = 64, order: Sampler[int] | None = None) -> Loader:
    """A loader over ``x`` (N, ...) and class indices ``y`` (N,) that takes each batch in one
    indexing operation; shuffling, unless an ``order`` is given."""
    dataset = TensorDataset(x, y)
    sampler = BatchSampler(order or RandomSampler(dataset), batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def seeded_pass(loader: Loader, *names: object) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over ``loader``, its order and whatever else it draws decided by
    ``names``: torch's global generator, put back afterwards, and the loader's own, which is set."""
    for generator in _generators(loader):
        generator.manual_seed(derive(*names))
    with seeded(*names, "order"):
        iterator, state = iter(loader), torch.get_rng_state()
    while True:
        # The generator is seeded only while the loader works: what the caller does with a batch
        # draws from the caller's numbers, and an abandoned pass leaves nothing to put back.
        callers = torch.get_rng_state()
        torch.set_rng_state(state)
        try:
            batch = next(iterator, None)
        finally:
            state = torch.get_rng_state()
            torch.set_rng_state(callers)
        if batch is None:
            return
        yield batch


def _generators(loader: Loader) -> list[torch.Generator]:
    sampler = loader.sampler
    nested = sampler.sampler if isinstance(sampler, BatchSampler) else None
    owners = (loader, sampler, nested)
    found = [getattr(owner, "generator", None) for owner in owners]
    return [g for g in found if isinstance(g, torch.Generator)]


def fingerprint(loader: Loader) -> list[Any]:
    """What can be told apart about a loader: the tensors where it holds tensors, else how much
    data there is, and in batches of how many."""
    data = loader.dataset
    tensors = [tensor_hash(t) for t in data.tensors] if isinstance(data, TensorDataset) else []
    size = len(data) if hasattr(data, "__len__") else None
    return [type(data).__name__, size, tensors, type(loader.sampler).__name__, _batch_size(loader)]


def check_labels(y: Tensor, classes: int, task: str) -> None:
    """Raise ``DataError`` unless ``y`` holds class indices from 0 to ``classes - 1``."""
    if y.is_floating_point() or y.ndim != 1:
        raise DataError(f"task {task!r}: labels must be a vector of integers, got {y.dtype} {tuple(y.shape)}")
    if len(y) and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise DataError(
            f"task {task!r}: labels run from {int(y.min())} to {int(y.max())}, but its {classes} classes "
            f"are numbered 0 to {classes - 1}; number each task's classes from 0"
        )


class _Offset(Dataset[tuple[Any, Any]]):
    """A dataset whose labels are shifted by a constant."""

    def __init__(self, dataset: Dataset[tuple[Any, Any]], offset: int) -> None:
        self.dataset, self.offset = dataset, offset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = self.dataset[index]
        return x, y + self.offset


def pooled(loaders: Sequence[Loader], offsets: Sequence[int], balance: Sequence[int] | None = None) -> Loader:
    """One shuffling loader over the data of several, each one's labels shifted by its offset.

    With ``balance``, a weight for each loader, rows are drawn with replacement, so often from each
    as its weight says, however many it has.
    """
    datasets = [loader.dataset for loader in loaders]
    size = next((s for s in map(_batch_size, loaders) if s), 64)
    order = _weighted([len(d) for d in datasets], balance) if balance else None  # type: ignore[arg-type]
    if all(isinstance(d, TensorDataset) and len(d.tensors) == 2 for d in datasets):
        pairs = [cast(TensorDataset, d).tensors for d in datasets]
        x = torch.cat([x for x, _ in pairs])
        y = torch.cat([y + offset for (_, y), offset in zip(pairs, offsets, strict=True)])
        return batches(x, y, size, order)
    shifted = [_Offset(d, offset) for d, offset in zip(datasets, offsets, strict=True)]
    first = loaders[0]
    return DataLoader(
        ConcatDataset(shifted),
        size,
        shuffle=None if order else True,
        sampler=order,
        collate_fn=first.collate_fn if first.batch_size else None,
    )


def _weighted(lengths: Sequence[int], weights: Sequence[float]) -> Sampler[int]:
    """As many draws as there are rows, part i of them with probability ``weights[i]`` over their sum."""
    parts = zip(lengths, weights, strict=True)
    each = torch.cat([torch.full((n,), weight / n, dtype=torch.double) for n, weight in parts])
    return WeightedRandomSampler(each.tolist(), sum(lengths))


def _batch_size(loader: Loader) -> int | None:
    return loader.batch_size or getattr(loader.sampler, "batch_size", None)
