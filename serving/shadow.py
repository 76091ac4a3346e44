"""Recorded requests, sent to two versions at once: where their answers differ."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.archive import Archive
from serving.errors import ServingError
from serving.probes import Prober, numbers

_AT_ONCE = 8
_FIELDS = ("time", "task", "threshold", "x")


@dataclass(frozen=True)
class ShadowTerms:
    """The recorded requests, and which share of them (a fraction of 1) may get another task or label."""

    file: Path
    max_changes: float | None = None


@dataclass
class Compared:
    """How many answers of one task (the old version's) differ."""

    requests: int = 0
    task_changed: int = 0
    label_changed: int = 0


@dataclass
class Comparison:
    """``changed`` answers have another task or label; the differences are the largest of the answered
    task's and label's probabilities where those are the same."""

    requests: int = 0
    changed: int = 0
    task_difference: float = 0.0
    label_difference: float = 0.0
    tasks: dict[str, Compared] = field(default_factory=dict)

    def add(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Count one request's two answers."""
        task = self.tasks.setdefault(str(old["task"]), Compared())
        another_task, another_label = old["task"] != new["task"], old["label"] != new["label"]
        self.requests, task.requests = self.requests + 1, task.requests + 1
        self.changed += another_task or another_label
        task.task_changed += another_task
        task.label_changed += another_label and not another_task
        if another_task:
            return
        self.task_difference = max(self.task_difference, _difference(old, new, "task_probability"))
        if not another_label:
            self.label_difference = max(self.label_difference, _difference(old, new, "label_probability"))

    def too_many(self, terms: ShadowTerms) -> bool:
        return terms.max_changes is not None and self.changed > terms.max_changes * self.requests

    def summary(self) -> str:
        return (
            f"{self.changed} of {self.requests} recorded requests get another answer; largest change of a "
            f"probability: {max(self.task_difference, self.label_difference):.3g}"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def shadow(prober: Prober, old: Archive, new: str, terms: ShadowTerms) -> Comparison:
    """Send the requests in ``terms.file`` to the version of ``old`` and to ``new``, and to nobody else."""
    requests = list(_requests(read_recorded(terms.file, old), old))

    def both(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        first, second = (prober.ask(old.name, version, request) for version in (old.version, new))
        return first, second

    found = Comparison()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for pair in pool.map(both, requests):
            found.add(*pair)
    return found


def read_recorded(path: Path, archive: Archive) -> npt.NDArray[Any]:
    """Recorded requests (n,) with fields time, task, threshold and x, which fit the archive's input."""
    try:
        rows: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ServingError(f"recorded requests {path} can't be read: {error}") from error
    if rows.dtype.names is None or set(rows.dtype.names) != set(_FIELDS):
        raise ServingError(f"{path} holds no recorded requests: expected the fields {', '.join(_FIELDS)}")
    shape = tuple(archive.bundle["input"]["shape"])
    if rows.ndim != 1 or rows["x"].shape[1:] != shape:
        raise ServingError(f"{path}: x has shape {rows['x'].shape}; expected (n, {str(shape)[1:-1]})")
    rows = rows[rows["time"] > 0]  # a ring that is not full yet ends in empty rows
    if not len(rows):
        raise ServingError(f"{path} holds no requests")
    return rows


def _requests(rows: npt.NDArray[Any], archive: Archive) -> Iterator[dict[str, Any]]:
    names = [task["name"] for task in archive.tasks]
    for row in rows:
        pinned = {"task": names[int(row["task"])]} if 0 <= row["task"] < len(names) else {}
        yield {"data": numbers(row["x"]), "threshold": float(row["threshold"]), **pinned}


def _difference(old: dict[str, Any], new: dict[str, Any], key: str) -> float:
    one, other = old.get(key), new.get(key)
    return 0.0 if one is None or other is None else abs(float(one) - float(other))
