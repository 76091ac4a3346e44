"""The last N requests of a worker, in a ring: a file that other processes may read at any moment.

Off unless EIDETIC_RECORD is N and EIDETIC_RECORDS names a folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger("eidetic.ring")

ROWS, FOLDER = "EIDETIC_RECORD", "EIDETIC_RECORDS"


def row_type(spec: Mapping[str, Any]) -> np.dtype[Any]:
    """A row of a ring for the input contract ``spec``. ``time`` is Unix time in seconds, 0 while the row is
    written; ``task`` the index of the pinned task, or -1; ``x`` the raw input."""
    x = (np.dtype(spec["dtype"]).newbyteorder("<"), tuple(spec["shape"]))
    return np.dtype([("time", "<f8"), ("task", "<i8"), ("threshold", "<f4"), ("x", *x)])


def ring_name(model: str, version: str, process: int | str) -> str:
    """The name of a ring's file: MODEL-VERSION-PID.npy, with hyphens in the names themselves as %2D."""
    return "-".join(name.replace("-", "%2D") for name in (model, version, str(process))) + ".npy"


class Ring:
    """A file ``path`` of ``rows`` rows, the oldest of which is overwritten next."""

    def __init__(self, path: Path, spec: Mapping[str, Any], rows: int) -> None:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)  # it holds what people sent
        self._rows = np.lib.format.open_memmap(path, "w+", row_type(spec), (rows,))
        # its space is taken now: a write to a mapped page that a full disk has no room for kills the process
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        self._next, self._last = 0, 0.0

    def write(self, x: npt.NDArray[Any], task: npt.NDArray[Any], threshold: npt.NDArray[Any]) -> None:
        """Write ``x`` (n, *shape), ``task`` (n,) and ``threshold`` (n,). A row's time goes first to 0 and
        last to what it is, so a reader, or a kill in between, never takes half a row for a whole one."""
        size = len(self._rows)
        x, task, threshold = x[-size:], task[-size:], threshold[-size:]
        place = (self._next + np.arange(len(x))) % size
        self._rows["time"][place] = 0
        self._rows["x"][place] = x
        self._rows["task"][place], self._rows["threshold"][place] = task, threshold
        first = max(time.time(), self._last + 1e-6)  # times ascend, also within a batch
        times = first + 1e-6 * np.arange(len(x))
        self._rows["time"][place] = times
        self._next, self._last = int(place[-1] + 1) % size, float(times[-1])


def open_ring(model: str, version: str, spec: Mapping[str, Any]) -> Ring | None:
    """The ring of this worker; None if it is to have none, or can't have one."""
    rows, folder = os.environ.get(ROWS, ""), os.environ.get(FOLDER)
    if not rows or rows == "0" or not folder:
        return None
    path = Path(folder) / ring_name(model, version, os.getpid())
    try:
        if int(rows) * row_type(spec).itemsize > (free := shutil.disk_usage(folder).free):
            raise OSError(f"{rows} requests need more room than the {free} bytes that are free")
        return Ring(path, spec, int(rows))
    except (OSError, ValueError) as error:
        log.warning("no request is recorded: %s", error)
        path.unlink(missing_ok=True)
        return None
