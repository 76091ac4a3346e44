"""Process groups, ended whole; and the dead, which stay in the table of processes until a parent asks for
them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

STOP_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None  # bound before any fork
_PROC = Path("/proc")
_DEAD = "ZX"


def die_with_parent() -> None:
    """Before a child runs its program: let the kernel end it if its parent is killed and can't (Linux)."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group of ``process``, SIGKILL to what is left after ``STOP_SECONDS``."""
    deadline = time.monotonic() + STOP_SECONDS
    _signal_group(process.pid, signal.SIGTERM)
    _signal_group(process.pid, signal.SIGCONT)  # who was stopped can't end
    while time.monotonic() < deadline and (process.poll() is None or _lives(process.pid)):
        time.sleep(_PAUSE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def reap(known: Collection[int]) -> None:
    """Where this is process 1, as in a container without an init: let go of those that ended and were left
    to us. ``known`` are our own children, whose exit statuses others wait for."""
    if os.getpid() != 1:
        return
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, 0)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _lives(group: int) -> bool:
    """Whether a process of the group runs. One that has ended counts no more, even if its status
    is never asked for, as where process 1 is no init."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    states = [_state(entry) for entry in _PROC.glob("[0-9]*")]
    return not states or any(found == group and state not in _DEAD for found, state in states)


def _state(process: Path) -> tuple[int, str]:
    """The group of a process and its state, as proc(5) has it; one that is gone is dead."""
    try:
        state, _, group, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0, _DEAD[0]
    return int(group), state
