"""Plain loaders: they give each row of two tensors once in every pass, as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
    default_convert,
)

from eideticnet.data.pairs import as_tensor
from eideticnet.errors import DataError


def batches(x: Any, y: Any, batch_size: int = 64, order: Sampler[int] | None = None) -> DataLoader[Any]:
    """A loader over ``x`` (N, ...) and class indices ``y`` (N,), tensors or arrays, that takes each
    batch in one indexing operation; shuffling, unless an ``order`` is given."""
    x, y = as_tensor("x", x), as_tensor("y", y)
    if len(x) != len(y) or not len(x):
        raise DataError(f"batches: {len(x)} inputs and {len(y)} labels; give as many, and at least one")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise DataError(f"batches: batch_size {batch_size!r} is no positive whole number")
    dataset, kind = _Tensors(x, y), BatchSampler if order else _Shuffled
    sampler = kind(order or RandomSampler(dataset), batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


class _Shuffled(BatchSampler):
    """The same batches as tensors of indices."""

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        yield from torch.tensor([*self.sampler]).split(self.batch_size)


class _Tensors(TensorDataset):
    """Selects the rows of a batch, which takes a third of the time that indexing them does."""

    def __getitem__(self, rows: Any) -> tuple[Tensor, ...]:
        if isinstance(rows, Tensor):
            return tuple(
                t.index_select(0, rows.to(t.device)) if t.is_floating_point() else t[rows]
                for t in self.tensors
            )
        return tuple(t[rows] for t in self.tensors)


DATASETS = TensorDataset, _Tensors


def is_plain(loader: object) -> bool:
    """Whether a pass gives each row of a pair of tensors once and unchanged, in any order."""
    if not isinstance(loader, DataLoader):
        return False
    keys: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    dataset: Any = loader.dataset
    if type(loader) is not DataLoader or type(dataset) not in DATASETS:
        return False
    if len(dataset.tensors) != 2 or loader.collate_fn not in (default_collate, default_convert):
        return False
    if type(keys) not in (BatchSampler, _Shuffled) or keys.drop_last:
        return False
    order, count = keys.sampler, len(dataset)
    if type(order) is RandomSampler and not order.replacement:
        return order.num_samples == len(order.data_source) == count
    return type(order) is SequentialSampler and len(order.data_source) == count
