"""One pass of the graph for a whole batch; should that fail, one for each of its requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from eidetic_request import Request

log = logging.getLogger("eidetic.pass")

Array = npt.NDArray[Any]
Outputs = dict[str, Array]


@dataclass(slots=True)
class Pass:
    """The rows of ``requests`` side by side, and what the graph gave for them: ``outputs``, or ``error``.
    ``places`` are those of the requests in the batch."""

    places: Sequence[int]
    requests: Sequence[Request]
    x: Array
    task: Array
    threshold: Array
    outputs: Outputs | None = None
    error: str = ""

    def each(self) -> Iterator[tuple[int, Request, Outputs | None]]:
        """The place, the request and its outputs, for each request."""
        first = 0
        for place, request in zip(self.places, self.requests, strict=True):
            last = first + len(request.x)
            outputs = self.outputs
            yield place, request, outputs and {name: v[first:last] for name, v in outputs.items()}
            first = last


def passes(graph: Callable[..., Outputs], batch: Mapping[int, Request]) -> list[Pass]:
    """One pass for all requests of ``batch`` (by place), or several if it raises: what one request does to
    the graph (a lack of memory for its many rows, an index that slipped through) must not become an
    error of those that happened to come at the same time."""
    if not batch:
        return []
    together = _pass(graph, batch)
    if together.outputs is not None or len(batch) == 1:
        return [together]
    fields = {"requests": len(batch), "error": together.error}
    log.warning("the graph failed on a batch; each request is run alone", extra={"fields": fields})
    return [_pass(graph, {place: request}) for place, request in batch.items()]


def _pass(graph: Callable[..., Outputs], batch: Mapping[int, Request]) -> Pass:
    requests = list(batch.values())
    sizes = [len(r.x) for r in requests]
    made = Pass(
        list(batch),
        requests,
        np.concatenate([r.x for r in requests]),
        np.repeat(np.array([r.task for r in requests], np.int64), sizes),
        np.repeat(np.array([r.threshold for r in requests], np.float32), sizes),
    )
    try:
        made.outputs = graph(made.x, made.task, made.threshold)
    except Exception as error:  # the runtimes' errors have no base of their own
        made.error = f"{type(error).__name__}: {error}"[:500]
    return made
