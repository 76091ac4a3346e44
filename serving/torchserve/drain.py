"""Waiting until a version has nothing left to do.

TorchServe tells how many requests wait for a version, and not how many are being answered: its workers
take a batch out of the queue. So the workers' processes are watched too. A worker that has nothing to do
sleeps in the kernel until the next batch comes, and uses no processor time at all.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from eideticnet.serving.engine import Drained, HeldVersion

_PAUSE_SECONDS = 0.05
_QUIET_LOOKS = 4
"""This many looks in a row must find nothing, so that what lies between queue and worker is seen too."""
_RELEASE_SECONDS = 30.0
PROC = Path("/proc")
_USER, _SYSTEM = 11, 12  # of proc(5)'s stat, counted behind the name


def drain(held: Callable[[], HeldVersion | None], limit: float) -> Drained:
    """Wait until the queue and the workers of a version are empty, at most so long; what was left. ``held``
    tells how TorchServe holds it now."""
    start, quiet = time.monotonic(), 0
    before: list[int | None] = []
    while True:
        found = held()
        if found is None:
            return Drained(time.monotonic() - start, 0, 0)
        now = [_effort(worker.pid) for worker in found.workers]
        busy = _busy(before, now)
        quiet = 0 if found.pending or busy else quiet + 1
        waited = time.monotonic() - start
        if quiet >= _QUIET_LOOKS or waited > limit:
            return Drained(waited, found.pending, busy)
        before = now
        time.sleep(_PAUSE_SECONDS)


def replace_workers(held: Callable[[], HeldVersion | None], left: Drained) -> Drained:
    """Kill workers that did not come to an end, so that no client waits for them without end: TorchServe
    answers their batches with an error, and starts workers that answer who waited behind those. Of a version
    that it lets go it answers neither."""
    found = held()
    for pid in (worker.pid for worker in found.workers) if found else ():
        if pid > 1:  # -1, a worker that is being started, would mean every process there is
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    then = drain(held, _RELEASE_SECONDS)
    return Drained(left.seconds + then.seconds, then.pending, left.busy)


def _busy(before: Sequence[int | None], now: Sequence[int | None]) -> int:
    """How many workers ran since the last look, or run now. A worker that is gone is not busy."""
    if len(before) != len(now):
        return len(now)
    return sum(b is not None and a != b for a, b in zip(before, now, strict=True))


def _effort(pid: int) -> int | None:
    """Nanoseconds that a process and its threads have run, a fresh number each time while one of them
    does not sleep (it runs, waits for a processor or a disk, or was stopped), or where it can't be seen what
    they do; None without a process."""
    total = 0
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return time.monotonic_ns() if _exists(pid) else None
    for thread in threads:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended in between
            stat = (thread / "stat").read_text().rpartition(")")[2].split()
            total += _ran(thread, stat) + (time.monotonic_ns() if stat[0] not in "SIZX" else 0)
    return total


def _ran(thread: Path, stat: Sequence[str]) -> int:
    """Nanoseconds that a thread has run, of the kernel's scheduler; of its clock, which is coarser, where
    the former keeps no account."""
    try:
        return int((thread / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return (int(stat[_USER]) + int(stat[_SYSTEM])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _exists(pid: int) -> bool:
    if pid <= 0:  # a worker that is being started
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
