"""What a replica counts, in Ray's own Prometheus endpoint under the same names, before each a ``ray_``.

It is counted as on every engine, for a fraction of a microsecond a request, and told every few seconds: each
sample as a gauge of its own. Ray forgets those of a replica that is gone, and has no histogram that takes
many requests at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ray.util.metrics import Gauge

from eidetic_runtime.metrics import Metrics
from eideticnet.serving.ray.models import Entry, Held, Models

_SECONDS = 5.0
"""Less than Ray keeps a gauge that nobody sets again."""

Sample = tuple[str, Mapping[str, str], float]


class Kept(Metrics):
    """The metrics of one version, all of whose samples can be read."""

    def __init__(self, held: Held) -> None:
        self._kept: list[tuple[str, Mapping[str, str], Any]] = []
        super().__init__(held.name, held.version, [task["name"] for task in held.bundle["tasks"]])

    def _series(self, kind: Any, name: str, text: str, more: dict[str, str], **options: Any) -> Any:
        series = super()._series(kind, name, text, more, **options)
        self._kept.append((name, self._labels | more, series))
        return series

    def samples(self) -> Iterator[Sample]:
        """As Prometheus names them: counters end in _total, histograms are buckets, a sum and a count."""
        for name, labels, series in self._kept:
            for suffix, more, value, *_ in series._child_samples():
                if suffix != "_created":
                    yield name + suffix, labels | more, value


class Told:
    """The metrics of all that ``models`` hold."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def keep(self) -> None:
        """Count what was loaded since."""
        for _, held in self._held():
            if not isinstance(held.model.telemetry._metrics, Kept):
                held.model.telemetry._metrics = Kept(held)

    def tell(self) -> None:
        """Set all gauges."""
        for name, labels, value in self.samples():
            _gauge(name, tuple(labels)).set(value, dict(labels))

    def samples(self) -> Iterator[Sample]:
        """Of all versions, and of this replica, which is one worker for each."""
        yield "eidetic_ready", {}, float(bool(self._models.open()))
        yield "eidetic_frontend_restarts_total", {}, 0.0
        for entry, held in self._held():
            labels = {"model": held.name, "version": held.version}
            yield "eidetic_default", labels, float(entry.default == held.version)
            yield "eidetic_workers", labels, 1.0
            yield "eidetic_queue_depth", labels, float(held.waiting)
            if isinstance(kept := held.model.telemetry._metrics, Kept):
                yield from kept.samples()

    async def tell_forever(self) -> None:
        """Every few seconds."""
        while True:
            self.tell()
            await asyncio.sleep(_SECONDS)

    def _held(self) -> list[tuple[Entry, Held]]:
        return [(entry, held) for entry in self._models.entries.values() for held in entry.versions.values()]


@cache
def _gauge(name: str, labels: tuple[str, ...]) -> Gauge:
    return Gauge(name, "The same as without ray_.", labels)
