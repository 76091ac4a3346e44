"""Metrics for Prometheus: what the workers count, and what only the supervisor knows."""

from __future__ import annotations

import logging
import shutil
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from eideticnet.files import open_regular
from eideticnet.serving.supervise.watch import Watch

log = logging.getLogger("serving.metrics")

_KINDS = ("counter", "histogram")
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, AttributeError, struct.error)
"""What a file raises that its worker ended while it began, or that is another program's."""

_Family = tuple[str, str, str, tuple[str, ...]]
"""Name, text and kind of a family, and the names of its labels."""
_Counts = Counter[tuple[_Family, tuple[str, ...], str]]
"""By family, labels and bound: a bucket's is what fell into it alone; "" is a counter's, or a sum."""


def registry(watch: Watch, *others: Collector) -> CollectorRegistry:
    """All metrics of a server."""
    found = CollectorRegistry()
    for collector in (_Server(watch), *others):
        found.register(collector)
    return found


class WorkerMetrics(Collector):
    """What all workers counted: each that lives has files of its own in ``folder``, and those that have ended
    are added up here, so that there are no more files than workers."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ended = folder, _Counts()
        self._files = threading.Lock()

    def begin_anew(self) -> None:
        """Files of workers that ended with an earlier server say nothing of this one."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, mode=0o700)

    def keep_ended(self) -> None:
        """Add up what workers counted that have ended; their files go."""
        with self._files:
            for path in self._paths():
                if path.is_file() and not _lives(path):
                    try:
                        self._ended.update(_counts(path))
                    except _UNREADABLE as error:
                        log.warning("what a worker counted in %s can't be read: %s", path, error)
                    path.unlink()

    def collect(self) -> Iterator[Metric]:
        with self._files:
            total = _Counts(self._ended)
            for path in self._paths():
                with suppress(*_UNREADABLE):
                    total.update(_counts(path))
        yield from _families(total)

    def _paths(self) -> list[Path]:
        return [path for kind in _KINDS for path in sorted(self._folder.glob(f"{kind}_*.db"))]


def _lives(path: Path) -> bool:
    return Path("/proc", path.stem.rpartition("_")[2]).exists()


def _counts(path: Path) -> _Counts:
    open_regular(path).close()  # a pipe would be waited for
    found = _Counts()
    files = [str(path)]
    for family in MultiProcessCollector.merge(files, accumulate=False):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            labels = dict(sorted(sample.labels.items()))
            bound = labels.pop("le", "")
            key = family.name, family.documentation, family.type, tuple(labels)
            found[key, tuple(labels.values()), bound] += sample.value
    return found


def _families(total: _Counts) -> Iterator[Metric]:
    """As they are told: a bucket counts what fell into smaller ones too."""
    families: dict[_Family, dict[tuple[str, ...], dict[str, float]]] = {}
    for (family, labels, bound), value in total.items():
        families.setdefault(family, {}).setdefault(labels, {})[bound] = value
    for (name, text, kind, names), rows in families.items():
        if kind == "counter":
            counter = CounterMetricFamily(name, text, labels=names)
            for labels, values in rows.items():
                counter.add_metric(labels, values[""])
            yield counter
            continue
        histogram = HistogramMetricFamily(name, text, labels=names)
        for labels, values in rows.items():
            if bounds := sorted(values.keys() - {""}, key=float):
                counts = accumulate(values[bound] for bound in bounds)
                histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), values.get("", 0.0))
        yield histogram


class _Server(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """What the watch found when it looked last."""
        ready = GaugeMetricFamily("eidetic_ready", "1 if every model's default version answers")
        ready.add_metric([], float(not self._watch.unready()))
        text = f"How often {self._watch.engine} was started again"
        restarts = CounterMetricFamily("eidetic_frontend_restarts", text)
        restarts.add_metric([], self._watch.restarts)
        labels = ["model", "version"]
        default = GaugeMetricFamily("eidetic_default", "1 for the version that answers", labels=labels)
        workers = GaugeMetricFamily("eidetic_workers", "Workers that are ready", labels=labels)
        queue = GaugeMetricFamily("eidetic_queue_depth", "Requests that wait for a worker", labels=labels)
        for name, model in self._watch.held.items():
            for version, held in model.versions.items():
                default.add_metric([name, version], float(version == model.default))
                workers.add_metric([name, version], held.ready)
                queue.add_metric([name, version], held.pending)
        yield from (ready, restarts, default, workers, queue)
