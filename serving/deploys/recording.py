"""A recording: the newest requests to a model, out of one ring for each worker.

A ring's rows hold ``time`` (Unix seconds, 0 while a row is written), ``task`` (index of the pinned task or
-1), ``threshold`` and the raw input ``x``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from eidetic_runtime.ring import row_type
from eideticnet.contract.bundle import Input
from eideticnet.files import UnreadableError, open_regular
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.files import write_whole

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
        """Write a .safetensors file that ``verify --routing-data`` reads. The pinned task is called
        ``pinned`` there: ``task`` would say that it is the right one, which is not known."""
        tensors = {"x": self.x, "pinned": self.task, "threshold": self.threshold, "time": self.time}
        write_whole(path, save(tensors), mode=0o600)  # it holds what people sent


def read(path: Path, model: str, spec: Input) -> Recording:
    """The requests to ``model`` in ``path``, by time: a folder of rings, one ring (.npy) or what
    ``Recording.write`` wrote. ``ServingError`` unless there are some that fit the input contract ``spec``."""
    if path.is_dir():
        found = in_rings(path, model, spec)
    elif path.suffix == ".npy":
        found = _recording([ring for ring in _whole_rows([path]) if ring.dtype == _row_type(spec)], spec)
    else:
        found = _written(path, spec)
    if not len(found):
        shape = ", ".join(map(str, spec.shape))
        raise ServingError(f"{path} holds no recorded requests of {spec.dtype} and shape [{shape}]")
    return found


def in_rings(folder: Path, model: str, spec: Input) -> Recording:
    """The requests to ``model`` in all rings of ``folder`` that fit the input contract ``spec``; workers may
    write meanwhile."""
    # MODEL-VERSION-PID.npy; a hyphen in a name is written %2D, so no model's name begins another's files
    paths = sorted(folder.glob(f"{model.replace('-', '%2D')}-*.npy"))
    kind = _row_type(spec)
    return _recording([ring for ring in _whole_rows(paths) if ring.dtype == kind], spec)


def remove_old_rings(folder: Path, keep: int) -> None:
    """Remove the rings of workers that have ended, but for each model's ``keep`` newest."""
    ended: dict[str, list[Path]] = {}
    for path in folder.glob("*-*-*.npy"):
        model, process = path.name.partition("-")[0], path.stem.rpartition("-")[2]
        if not Path(f"/proc/{process}").exists() and not path.is_dir():
            ended.setdefault(model, []).append(path)
    for paths in ended.values():
        for path in sorted(paths, key=lambda path: path.lstat().st_mtime, reverse=True)[keep:]:
            path.unlink()


def _recording(rings: Sequence[Array], spec: Input) -> Recording:
    """The rows of ``rings`` by time."""
    rows = np.concatenate([np.empty(0, _row_type(spec)), *rings])
    rows = rows[np.argsort(rows["time"], kind="stable")]
    return Recording(*(np.ascontiguousarray(rows[name]) for name in ("x", "task", "threshold", "time")))


def _row_type(spec: Input) -> np.dtype[Any]:
    return row_type({"dtype": spec.dtype, "shape": spec.shape})


def _written(path: Path, spec: Input) -> Recording:
    try:
        with open_regular(path) as file:
            tensors = load(file.read())
        found = Recording(*(tensors[name] for name in ("x", "pinned", "threshold", "time")))
    except UnreadableError as error:
        raise ServingError(str(error)) from None
    except (OSError, KeyError, ValueError, MemoryError, SafetensorError):
        return _recording([], spec)
    return found if _sound(found, spec) else _recording([], spec)


def _sound(found: Recording, spec: Input) -> bool:
    """Whether it may have been recorded: types, shapes and values are those of requests."""
    rows = found.x.shape[:1]
    if found.x.shape[1:] != tuple(spec.shape) or found.x.dtype != spec.dtype:
        return False
    kinds = {"int64": found.task, "float32": found.threshold, "float64": found.time}
    if any(array.shape != rows or array.dtype != kind for kind, array in kinds.items()):
        return False
    sure = (found.threshold >= 0) & (found.threshold <= 1)
    return bool(np.isfinite(found.x).all() and sure.all() and (found.task >= -1).all())


def _ring(path: Path) -> Array:
    with open_regular(path) as file:
        ring: Array = np.load(file, allow_pickle=False)
    return ring


def _whole_rows(paths: Iterable[Path]) -> Iterator[Array]:
    """The rows of each ring that are not being written."""
    for path in paths:
        try:  # plain reads: a mapped file that a new process creates again would kill the reader
            rows, again = (_ring(path) for _ in range(2))
        except (OSError, ValueError, EOFError, MemoryError):
            continue  # it is being made, or another program's
        if rows.dtype.names and "time" in rows.dtype.names and rows.shape == again.shape:
            yield rows[(rows["time"] > 0) & (rows["time"] == again["time"])]
