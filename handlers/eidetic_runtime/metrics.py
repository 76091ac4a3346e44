"""Prometheus metrics of one worker, in files that the server reads together with other workers'.

Off unless prometheus_client is installed and PROMETHEUS_MULTIPROC_DIR names a folder. All values are
counted batch by batch, so that a request costs a fraction of a microsecond for each.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from eidetic_runtime.errors import STATUS

try:
    import prometheus_client
except ImportError:
    prometheus_client = None  # type: ignore[assignment]

log = logging.getLogger("eidetic.metrics")

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FILE_BYTES = 64 << 10


class Metrics:
    """Series of one model and version; ``tasks`` are the names of its tasks."""

    def __init__(self, model: str, version: str, tasks: Sequence[str]) -> None:
        self._labels = {"model": model, "version": version}
        self._requests = self._counter("requests", "Requests, refused ones included.")
        self._unknown = self._counter("unknown", "Instances that no task claims.")
        self._probes = self._counter("probes", "Probes of the server's own and copies, counted nowhere else.")
        answers = "Instances answered, by task; pinned says whether the sender named it."
        self._answers = {
            pinned: [self._counter("answers", answers, task=t, pinned=pinned) for t in tasks]
            for pinned in ("false", "true")
        }
        self._errors = {k: self._counter("errors", "Requests that got an error.", kind=k) for k in STATUS}
        self._confidence = self._histogram(
            "router_confidence", "Probability of the likeliest task.", CONFIDENCE
        )
        self._batch = self._histogram("batch_requests", "Requests in a batch.", REQUESTS)
        self._seconds = {
            "decode": self._histogram("decode_seconds", "Reading a batch, for each request.", SECONDS),
            "graph": self._histogram("graph_seconds", "Running the graph, for each request.", SECONDS),
            "handler": self._histogram("handler_seconds", "All of the handler, for each request.", SECONDS),
        }

    def probes(self, requests: int) -> None:
        """Count requests that the server made itself."""
        if requests:
            self._probes.inc(requests)

    def batch(self, requests: int, errors: Sequence[str], seconds: dict[str, float]) -> None:
        """Count a batch of ``requests`` requests: the kinds of its ``errors``, and ``seconds`` by stage,
        which every request of the batch waited for."""
        self._requests.inc(requests)
        self._batch.observe(requests)
        for kind, count in Tally(errors).items():
            self._errors[kind if kind in self._errors else "internal"].inc(count)
        for stage, value in seconds.items():
            _observe(self._seconds[stage], [value], requests)

    def rows(self, pinned: npt.NDArray[Any], task: npt.NDArray[Any], task_probs: Any) -> None:
        """Count answers: ``pinned`` (N,) and ``task`` (N,) are indices, -1 for none; ``task_probs`` (N, T)
        or None where the router did not run."""
        routed = pinned < 0
        for (by_router, index), count in Tally(zip(routed.tolist(), task.tolist(), strict=True)).items():
            answers = self._answers["false" if by_router else "true"]
            (answers[index] if index >= 0 else self._unknown).inc(count)
        if task_probs is not None and routed.any():
            _observe(self._confidence, (task_probs if routed.all() else task_probs[routed]).max(1).tolist())

    def _counter(self, name: str, text: str, **more: str) -> Any:
        return self._series(prometheus_client.Counter, f"eidetic_{name}", text, more)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Any:
        return self._series(prometheus_client.Histogram, f"eidetic_{name}", text, {}, buckets=buckets)

    def _series(self, kind: Any, name: str, text: str, more: dict[str, str], **options: Any) -> Any:
        labels = self._labels | more
        return kind(name, text, list(labels), registry=None, **options).labels(**labels)


def _observe(histogram: Any, values: Sequence[float], times: int = 1) -> None:
    """What ``histogram.observe(value)`` does for each of ``values``, ``times`` over, with one write for each
    bucket that changes. The library has no call for that, and one at a time costs more than decoding."""
    try:
        bounds, buckets, total = histogram._upper_bounds, histogram._buckets, histogram._sum
    except AttributeError:  # another version of the library, laid out differently
        for value in values:
            for _ in range(times):
                histogram.observe(value)
        return
    total.inc(sum(values) * times)
    for index, count in Tally([bisect_left(bounds, value) for value in values]).items():
        buckets[index].inc(count * times)


def open_metrics(model: str, version: str, tasks: Sequence[str]) -> Metrics | None:
    """The metrics of this worker; None if they are off or can't be kept."""
    folder = os.environ.get(FOLDER)
    if not folder or prometheus_client is None:
        return None
    try:
        _reserve(Path(folder), _FILE_BYTES + sum(1024 + 16 * len(task) for task in tasks))
    except OSError as error:
        log.warning("no metrics: %s", error)
        return None
    return Metrics(model, version, tasks)


def _reserve(folder: Path, size: int) -> None:
    """Take the disk space of this process's files before the library maps them: a write to a mapped page
    that a full disk has no room for would kill the worker."""
    for kind in ("counter", "histogram"):
        path = folder / f"{kind}_{os.getpid()}.db"
        with path.open("ab") as file:
            if not file.tell():
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError:
                    path.unlink()  # half a file would spoil what all workers counted
                    raise
