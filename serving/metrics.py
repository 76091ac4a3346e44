"""Metrics for Prometheus: what the workers count, and what only the supervisor knows."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from eideticnet.export.errors import ArchiveError
from eideticnet.export.files import read_regular
from eideticnet.serving.watch import Watch

log = logging.getLogger("serving.metrics")

_KINDS = ("counter", "histogram")
_ENDED = 0
"""What stands in the place of a process id in the files that hold the sums of workers that have ended."""
_FILES = threading.Lock()
_ROOM, _ROOM_FOR_ONE = 64 << 10, 64  # bytes of a file, and of each entry beside its key


def registry(watch: Watch, folder: Path) -> CollectorRegistry:
    """All metrics of a server; its workers keep theirs in files in ``folder``."""
    found = CollectorRegistry()
    found.register(_Server(watch))
    found.register(_Workers(folder))
    return found


def forget(folder: Path) -> None:
    """Begin anew: files of workers that ended with an earlier server say nothing of this one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def merge_ended(folder: Path) -> None:
    """Add up what workers counted that have ended, so that there are no more files than workers."""
    with _FILES:
        for kind in _KINDS:
            ended = [path for path in folder.glob(f"{kind}_*.db") if path.is_file() and not _lives(path)]
            if len(ended) > 1:
                _merge(ended, folder / f"{kind}_{_ENDED}.db")


def _lives(path: Path) -> bool:
    return Path("/proc", path.stem.rpartition("_")[2]).exists()


def _merge(paths: Sequence[Path], target: Path) -> None:
    total: Counter[str] = Counter()
    for path in paths:
        try:
            total.update(_counts(path))
        except ValueError as error:
            log.warning("what a worker counted in %s can't be read: %s", path, error)
    whole = target.with_suffix(".new")
    size = _ROOM + sum(_ROOM_FOR_ONE + len(key.encode()) for key in total)
    with whole.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk under a mapped file would kill us
    values = MmapedDict(str(whole))  # type: ignore[no-untyped-call]
    for key, value in total.items():
        values.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    values.close()  # type: ignore[no-untyped-call]
    whole.replace(target)
    for path in paths:
        if path != target:
            path.unlink()


def _counts(path: Path) -> dict[str, float]:
    """What a worker counted, by the library's own keys; ``ValueError`` for a file that it ended while it
    began, and for whatever else lies there."""
    try:
        read_regular(path).close()  # a pipe would be waited for
        entries = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        return {key: value for key, value, *_ in entries}
    except (ArchiveError, OSError, RuntimeError, struct.error) as error:
        raise ValueError(str(error)) from error


def _readable(folder: Path) -> Iterator[str]:
    """The files that the library can read."""
    for kind in _KINDS:
        for path in sorted(folder.glob(f"{kind}_*.db")):
            with suppress(ValueError, TypeError, AttributeError):
                for key in _counts(path):
                    _, _, labels, _ = json.loads(key)
                    labels.items()
                yield str(path)


class _Workers(Collector):
    """What all workers counted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        with _FILES:
            yield from self._files.merge(list(_readable(self._folder)))  # type: ignore[no-untyped-call]


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
