"""What workers recorded: the newest requests of a model, out of one ring file for each worker.

A ring's rows hold ``time`` (Unix seconds, 0 while a row is written), ``task`` (index of the pinned task or
-1), ``threshold`` and the raw input ``x``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from serving.errors import ServingError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Recording:
    """N requests by time: ``x`` (N, *shape), ``task`` (N,) int64 as it was pinned or -1, ``threshold`` (N,)
    float32 and ``time`` (N,) float64, Unix seconds."""

    x: Array
    task: Array
    threshold: Array
    time: Array

    def __len__(self) -> int:
        return len(self.time)

    def write(self, path: Path) -> None:
        """As a .safetensors file that ``python -m export verify --routing-data`` reads. The pinned task is
        called ``pinned`` there: ``task`` would say that it is the right one, which nobody knows."""
        tensors = {"x": self.x, "pinned": self.task, "threshold": self.threshold, "time": self.time}
        path.touch(mode=0o600)  # it holds what people sent
        path.write_bytes(save(tensors))


def read(path: Path, spec: dict[str, Any]) -> Recording:
    """What ``Recording.write`` wrote, or one ring (.npy), by time. ``ServingError`` says what is wrong."""
    if path.suffix == ".npy":
        kind = _row_type(spec)
        rows = next((ring for ring in _whole_rows([path]) if ring.dtype == kind), None)
        found = None if rows is None else _recording(rows)
    else:
        try:
            tensors = load(path.read_bytes())
            found = Recording(*(tensors[name] for name in ("x", "pinned", "threshold", "time")))
        except (OSError, KeyError, ValueError, SafetensorError):
            found = None
    if found is None or found.x.shape[1:] != tuple(spec["shape"]) or found.x.dtype != spec["dtype"]:
        shape = ", ".join(map(str, spec["shape"]))
        raise ServingError(f"{path} holds no recorded requests of {spec['dtype']} and shape [{shape}]")
    return found


def newest(folder: Path, model: str, rows: int, spec: dict[str, Any]) -> Recording:
    """The newest ``rows`` requests to ``model`` in all rings of ``folder`` that fit the input contract
    ``spec``; workers may write meanwhile."""
    kind = _row_type(spec)
    # MODEL-VERSION-PID.npy; a hyphen in a name is written %2D, so no model's name begins another's files
    paths = sorted(folder.glob(f"{model.replace('-', '%2D')}-*.npy"))
    found = [ring for ring in _whole_rows(paths) if ring.dtype == kind]
    return _recording(np.concatenate([np.empty(0, kind), *found]), rows)


def _recording(rows: Array, last: int | None = None) -> Recording:
    """The ``last`` of ``rows`` by time, or all of them."""
    rows = rows[np.argsort(rows["time"], kind="stable")]
    rows = rows if last is None else rows[max(0, len(rows) - last) :]
    return Recording(*(np.ascontiguousarray(rows[name]) for name in ("x", "task", "threshold", "time")))


def _row_type(spec: dict[str, Any]) -> np.dtype[Any]:
    x = (np.dtype(spec["dtype"]).newbyteorder("<"), tuple(spec["shape"]))
    return np.dtype([("time", "<f8"), ("task", "<i8"), ("threshold", "<f4"), ("x", *x)])


def _whole_rows(paths: Iterable[Path]) -> Iterator[Array]:
    """The rows of each ring that are not being written."""
    for path in paths:
        try:  # plain reads: a mapped file that a new process makes anew would kill the reader
            rows, again = (np.load(path, allow_pickle=False) for _ in range(2))
        except (OSError, ValueError, EOFError):
            continue  # it is being made, or it is none of ours
        if rows.dtype.names and "time" in rows.dtype.names and rows.shape == again.shape:
            yield rows[(rows["time"] > 0) & (rows["time"] == again["time"])]
