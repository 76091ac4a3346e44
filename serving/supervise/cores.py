"""How many workers this machine has room for. (The handler, which imports none of this, asks the same.)"""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable() -> int:
    """Cores that this process may keep busy: its affinity, and a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, _QUOTA.read_text().split())
    except (OSError, ValueError):  # no such control group, or "max": no quota
        return cores
    return max(1, min(cores, quota // period))


def fitting(workers: int) -> tuple[int, list[str]]:
    """``workers``, or as many as there are cores, with a note in that case: each takes one at least."""
    most = usable()
    if workers <= most:
        return workers, []
    return most, [f"{workers} workers are more than the {most} cores that they may use: {most} are started"]
