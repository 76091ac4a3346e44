"""Where the time goes: processor time of the servers' processes, by the name of their program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil


def spent() -> Counter[str]:
    """Seconds of processor time so far of every process that this one has started. Front ends are ``java``
    (TorchServe's) and ``mosec``; workers, and servers that have no front end, ``python``."""
    found = Counter[str]()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[process.name().removesuffix("3.11").removesuffix("3")] += times.user + times.system
    return found


@contextmanager
def measured(requests: int) -> Iterator[dict[str, float]]:
    """Filled at the end: microseconds a request by program, of those that did anything."""
    before, taken = spent(), dict[str, float]()
    yield taken
    taken |= _each(before, spent(), requests)


def _each(before: Mapping[str, float], after: Mapping[str, float], requests: int) -> dict[str, float]:
    spans = {f"{name}_us": 1e6 * (after[name] - before.get(name, 0.0)) / requests for name in after}
    return {name: span for name, span in spans.items() if span > 1}
