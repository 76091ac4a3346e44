"""How many workers this machine has room for."""

from __future__ import annotations

from eidetic_runtime.device import usable_cores


def fitting(workers: int) -> tuple[int, list[str]]:
    """``workers``, or as many as there are cores, with a note in that case: each takes one at least."""
    most = usable_cores()
    if workers <= most:
        return workers, []
    return most, [f"{workers} workers are more than the {most} cores that they may use: {most} are started"]
