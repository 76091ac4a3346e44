"""How the graph is to run: the section ``handler`` of model-config.yaml, and what this machine has."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

log = logging.getLogger("eidetic.device")

DEVICES = ("auto", "cpu", "cuda")
LARGEST = 65536
ON_CUDA = tuple(2**i for i in range(9))
"""Batch sizes that a GPU runs where none are stated: 1 to 256."""
WORKERS = "EIDETIC_WORKERS"
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Settings:
    """``device``: ``auto`` takes CUDA where it can. ``threads`` of one worker. ``buckets``: the only
    numbers of rows that are run, ascending; None stands for ``ON_CUDA`` on CUDA, any number on a CPU."""

    device: str = "auto"
    threads: int = 1
    buckets: tuple[int, ...] | None = None


def read_settings(config: Mapping[str, Any] | None, cores: int | None = None) -> Settings:
    """The settings of a whole model-config.yaml; ``ValueError`` names the key and what was expected.

    Threads times workers never exceed ``cores`` (those that this process may use): what is too much is
    lowered, to no less than one thread. Workers are EIDETIC_WORKERS, which a server sets that scales them
    itself, else those of the configuration."""
    config = config or {}
    found = config.get("handler") or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"model-config.yaml: handler is {found!r}; expected keys and values")
    strange = sorted(map(str, set(found) - {"device", "threads", "buckets"}))
    if strange:
        raise ValueError(f"model-config.yaml: handler.{strange[0]} is no setting of the handler")
    settings = Settings(
        _device(found.get("device", "auto")),
        _threads(found.get("threads", 1)),
        _buckets(found.get("buckets")),
    )
    return replace(settings, threads=_fitting(settings.threads, _workers(config), cores or usable_cores()))


def usable_cores() -> int:
    """Cores that this process may keep busy: its affinity, and a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such control group, or "max": no quota
        return cores


def _workers(config: Mapping[str, Any]) -> int:
    stated = os.environ.get(WORKERS, "")
    if stated.isdecimal() and int(stated):
        return int(stated)
    return max(1, int(config.get("maxWorkers") or 1), int(config.get("minWorkers") or 1))


def _device(value: Any) -> str:
    if value not in DEVICES:
        raise _wrong("device", value, f"one of {', '.join(DEVICES)}")
    return str(value)


def _threads(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 1024:
        raise _wrong("threads", value, "a whole number from 1 to 1024")
    return value


def _buckets(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    whole = isinstance(value, list) and all(type(v) is int and 1 <= v <= LARGEST for v in value)
    if not whole or not value or value != sorted(set(value)):
        raise _wrong("buckets", value, f"ascending numbers of rows, each from 1 to {LARGEST}")
    return tuple(value)


def _wrong(key: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"model-config.yaml: handler.{key} is {value!r}; expected {expected}")


def _fitting(threads: int, workers: int, cores: int) -> int:
    most = max(1, cores // workers)
    if threads > most:
        told = "%d threads in each of %d workers are more than the %d cores: %d threads in each"
        log.warning(told, threads, workers, cores, most)
    return min(threads, most)
