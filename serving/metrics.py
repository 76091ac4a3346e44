"""Metrics for Prometheus: what the workers count, and what only the supervisor knows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serving.watch import Watch


def registry(watch: Watch, folder: Path) -> CollectorRegistry:
    """All metrics of a server; its workers keep theirs in files in ``folder``."""
    found = CollectorRegistry()
    found.register(_Server(watch))
    MultiProcessCollector(found, path=str(folder))  # type: ignore[no-untyped-call]
    return found


def forget(folder: Path) -> None:
    """Begin anew: files of workers that ended with an earlier server say nothing of this one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


class _Server(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """What the watch found when it looked last."""
        ready = GaugeMetricFamily("eidetic_ready", "1 if every model's default version answers")
        ready.add_metric([], float(not self._watch.unready()))
        restarts = CounterMetricFamily("eidetic_frontend_restarts", "How often TorchServe was started again")
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
