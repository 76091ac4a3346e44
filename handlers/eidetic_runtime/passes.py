"""One pass of the graph for a whole batch; should that fail, one for each of its requests."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eidetic_runtime.requests import Request

log = logging.getLogger("eidetic.pass")

Array = npt.NDArray[Any]
Outputs = dict[str, Array]
_LAST_SECONDS = 0.5
"""Enough for the answers of the batch that failed to go out."""


@dataclass(slots=True)
class Pass:
    """The rows ``x`` (N, *shape) of ``requests`` with their pinned ``task`` (N,) and ``threshold`` (N,), and
    what the graph gave for them: ``outputs``, or ``error``. ``places`` are those of the requests in the
    batch."""

    places: Sequence[int]
    requests: Sequence[Request]
    x: Array
    task: Array
    threshold: Array
    outputs: Outputs | None = None
    error: str = ""

    def run(self, graph: Callable[..., Outputs]) -> None:
        """Fill in ``outputs`` or ``error``."""
        whole = any(r.probabilities for r in self.requests)
        try:
            self.outputs = graph(self.x, self.task, self.threshold, whole)
        except Exception as error:  # the runtimes' errors have no base of their own
            self.error = f"{type(error).__name__}: {error}"[:500]
            end_if_lost(self.error)

    def apart(self) -> Iterator[Pass]:
        """The same for each request alone."""
        first = 0
        for place, request in zip(self.places, self.requests, strict=True):
            rows = slice(first, first + len(request.x))
            outputs = self.outputs and {name: value[rows] for name, value in self.outputs.items()}
            x, task, threshold = self.x[rows], self.task[rows], self.threshold[rows]
            yield Pass([place], [request], x, task, threshold, outputs, self.error)
            first = rows.stop


def passes(graph: Callable[..., Outputs], batch: Mapping[int, Request], x: Array | None) -> list[Pass]:
    """One pass for all requests of ``batch`` (by place), whose rows are ``x``, or several if it raises: what
    one request does to the graph (a lack of memory for its many rows, an index that slipped through)
    must not become an error of those that happened to come at the same time."""
    if x is None:
        return []
    requests = list(batch.values())
    sizes = [len(r.x) for r in requests]
    task = np.repeat(np.array([r.task for r in requests], np.int64), sizes)
    threshold = np.repeat(np.array([r.threshold for r in requests], np.float32), sizes)
    together = Pass(list(batch), requests, x, task, threshold)
    together.run(graph)
    if together.outputs is not None or len(batch) == 1:
        return [together]
    fields = {"requests": len(batch), "error": together.error}
    log.warning("the graph failed on a batch; each request is run alone", extra={"fields": fields})
    together.error = ""
    alone = list(together.apart())
    for one in alone:
        one.run(graph)
    return alone


def end_if_lost(error: str) -> None:
    """End this process soon if ``error`` is one of CUDA that stays, so that its server starts another worker.

    After an illegal access, a failed launch or a lost device every later call of the process fails too. A
    lack of memory passes."""
    if "CUDA" in error and "out of memory" not in error:
        log.error("CUDA is lost to this worker, which ends: %s", error)
        timer = threading.Timer(_LAST_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
