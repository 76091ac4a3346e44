"""Process groups, ended whole; and the dead, which stay in the table of processes until a parent asks for
them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

STOP_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_PROC = Path("/proc")
_DEAD = "ZX"
_OWNED = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() == int(sys.argv[1]):  # else it was killed before this
    os.execv(sys.argv[2], sys.argv[2:])
"""


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group of ``process``, SIGKILL to what is left after ``STOP_SECONDS``."""
    deadline = time.monotonic() + STOP_SECONDS
    _signal_group(process.pid, signal.SIGTERM)
    _signal_group(process.pid, signal.SIGCONT)  # who was stopped can't end
    while time.monotonic() < deadline and (process.poll() is None or _lives(process.pid)):
        time.sleep(_PAUSE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def owned(command: Sequence[str]) -> list[str]:
    """``command`` as one that the kernel ends if this process is killed and can't clean up (Linux). Nothing
    runs between fork and exec, where a process of several threads may run nothing safely."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-ISc", _OWNED, str(os.getpid()), *command]


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
