"""What is kept of the answers: metrics, the last requests, the log. Nothing here can fail a request."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eidetic_runtime.errors import BadRequest
from eidetic_runtime.headers import Sender
from eidetic_runtime.metrics import open_metrics
from eidetic_runtime.options import NAMES
from eidetic_runtime.passes import Pass
from eidetic_runtime.ring import open_ring

log = logging.getLogger("eidetic.telemetry")

SLOW = "EIDETIC_SLOW_MS"
_OURS = {"body", "data", "instances", "x", "request", "content-type", *NAMES}


@dataclass(slots=True)
class Batch:
    """What happened to a batch: the server's id of each request, and its headers; the passes for
    the good ones, the errors by place in the batch, and seconds of each stage."""

    ids: Sequence[str]
    senders: Sequence[Sender]
    passes: Sequence[Pass]
    errors: dict[int, BadRequest]
    seconds: dict[str, float]


class Telemetry:
    """That of one model in this worker."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        model, version = bundle["name"], bundle["model_version"]
        self._metrics = open_metrics(model, version, [task["name"] for task in bundle["tasks"]])
        self._ring = open_ring(model, version, bundle["input"])
        self._slow = _milliseconds(os.environ.get(SLOW, "")) / 1000
        self._failed: set[str] = set()

    def batch(self, batch: Batch) -> None:
        """Count, record and log a batch."""
        for keep in (self._count, self._record, self._log):
            try:
                keep(batch)
            except Exception:
                if keep.__name__ not in self._failed:  # each is said once, and answers go on
                    log.exception("%s failed", keep.__name__)
                self._failed.add(keep.__name__)

    def _count(self, batch: Batch) -> None:
        if self._metrics is None:
            return
        real = sum(not sender.shadow for sender in batch.senders)
        self._metrics.probes(len(batch.senders) - real)
        if not real:
            return
        errors = [e.kind for place, e in batch.errors.items() if not batch.senders[place].shadow]
        self._metrics.batch(real, errors, batch.seconds)
        for done, rows in _real(batch):
            assert done.outputs is not None
            probabilities = done.outputs.get("task_probs")
            shares = None if probabilities is None else probabilities[rows]
            self._metrics.rows(done.task[rows], done.outputs["task"][rows], shares)

    def _record(self, batch: Batch) -> None:
        if self._ring is None:
            return
        for done, rows in _real(batch):
            self._ring.write(done.x[rows], done.task[rows], done.threshold[rows])

    def _log(self, batch: Batch) -> None:
        for place, error in batch.errors.items():
            level = logging.ERROR if error.status >= 500 else logging.INFO
            self._line(level, "refused" if error.status < 500 else "failed", batch, place, error)
        if batch.seconds["handler"] >= self._slow:
            for place in range(len(batch.senders)):
                self._line(logging.WARNING, "slow", batch, place, None)

    def _line(self, level: int, message: str, batch: Batch, place: int, error: BadRequest | None) -> None:
        sender = batch.senders[place]
        fields: dict[str, Any] = {"request_id": batch.ids[place], "batch": len(batch.senders)}
        if sender.request_id:
            fields["sender_id"] = sender.request_id
        if sender.traceparent:
            fields["trace_id"] = sender.trace_id
        if error is not None:
            # the message, and the name of a strange field, may quote what was sent, which no log may hold
            field = error.field.partition("[")[0]
            fields |= {"status": error.status, "kind": error.kind, "field": field if field in _OURS else ""}
        if message == "slow":
            fields |= {name: round(value, 6) for name, value in batch.seconds.items()}
        failed = next((p.error for p in batch.passes if p.error and place in p.places), "")
        log.log(level, message, extra={"fields": fields | ({"error": failed} if failed else {})})


def _real(batch: Batch) -> Iterator[tuple[Pass, Any]]:
    """The passes that were answered, and which of their rows are real requests with an answer: no probes, no
    copies."""
    for done in batch.passes:
        real = [not batch.senders[place].shadow and place not in batch.errors for place in done.places]
        if done.outputs is not None and any(real):
            yield done, slice(None) if all(real) else np.repeat(real, [len(r.x) for r in done.requests])


def _milliseconds(text: str) -> float:
    try:
        return float(text or 1000)
    except ValueError:
        log.warning("%s is %r; expected milliseconds, 1000 are taken", SLOW, text)
        return 1000.0
