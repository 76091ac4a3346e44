"""Streams of experiences, as Avalanche's benchmarks have them, as tasks to learn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from eideticnet.errors import DataError
from eideticnet.names import whole


class StreamTask(NamedTuple):
    """What ``train_task`` takes, and ``fit_router`` and ``evaluate`` by ``name``."""

    name: str
    loader: DataLoader[Any]
    classes: tuple[str, ...]


def stream_tasks(stream: Iterable[Any], batch_size: int = 64) -> Iterator[StreamTask]:
    """A task for each experience of ``stream``, such as an Avalanche benchmark's ``train_stream`` or
    ``test_stream``, in its order, called "experience 0" and so on.

    Of an experience these are read: its ``dataset``, whose rows are x, y and anything else; its
    ``classes_in_this_experience``, by default the dataset's ``targets``; and its number,
    ``current_experience``. A task's classes are called as their numbers are written, and stand in their
    order. Anything else is a ``DataError``.
    """
    if not isinstance(stream, Iterable):
        hint = "; its train_stream is one" if hasattr(stream, "train_stream") else ""
        raise DataError(f"stream is {type(stream).__name__}, no stream of experiences{hint}")
    batch_size = whole(batch_size, "batch_size", least=1)
    for place, experience in enumerate(stream):
        number = getattr(experience, "current_experience", None)
        name = f"experience {place if number is None else number}"
        dataset: Any = getattr(experience, "dataset", None)
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            kind = type(experience).__name__
            raise DataError(f"{name} is {kind}, without a dataset of rows; give a stream of experiences")
        labels = _labels(name, experience, dataset)
        collate = _Pairs(name, {label: place for place, label in enumerate(labels)})
        loader = DataLoader(dataset, batch_size, shuffle=True, collate_fn=collate)
        yield StreamTask(name, loader, tuple(map(str, labels)))


def _labels(name: str, experience: Any, dataset: Any) -> list[int]:
    """The classes of an experience, ascending."""
    given = getattr(experience, "classes_in_this_experience", None)
    found = getattr(dataset, "targets", None) if given is None else given
    if found is None:
        raise DataError(f"{name} has neither classes_in_this_experience nor a dataset with targets")
    try:
        return sorted({int(label) for label in found})
    except (TypeError, ValueError):
        raise DataError(f"{name} has classes {found!r:.40}; expected whole numbers") from None


@dataclass(frozen=True)
class _Pairs:
    """Rows (x, y, ...) as a batch (x, y), classes numbered from 0."""

    name: str
    numbers: Mapping[int, int]

    def __call__(self, rows: Sequence[Sequence[Any]]) -> tuple[Any, Tensor]:
        try:
            y = [int(row[1]) for row in rows]
        except (TypeError, ValueError, IndexError):
            raise DataError(f"{self.name}: its dataset's rows are not x, y and anything else") from None
        if strange := sorted({*y} - {*self.numbers}):
            known = ", ".join(map(str, self.numbers))
            raise DataError(f"{self.name}: a row has label {strange[0]}; its classes are {known}")
        return default_collate([row[0] for row in rows]), torch.tensor([self.numbers[label] for label in y])
