"""``serving stop``: end a server from outside, and wait for it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from eideticnet.serving.errors import ServingError
from eideticnet.serving.home import Home
from eideticnet.serving.running import Starting, find

_PAUSE_SECONDS = 0.1


def stop_server(home: Home, seconds: float) -> int:
    """SIGTERM to the supervisor of a server that runs or is starting, whose number is returned;
    ``ServingError`` if there is none, or it still serves after so many seconds."""
    try:
        pid = find(home).pid
    except Starting as starting:
        pid = starting.pid
    if not pid or not _serves(home, pid):
        raise ServingError(
            f"process {pid}, which serves in {home.root}, is in another container or account: stop it there"
        )
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while home.served():
        if time.monotonic() > deadline:
            raise ServingError(f"process {pid} still serves after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)
    return pid


def _serves(home: Home, pid: int) -> bool:
    """Whether the process of that number here is the one that holds the home's lock: a container has
    numbers of its own."""
    if not Path("/proc/self/fd").exists():
        return True
    try:
        return home.server_lock.resolve() in {file.resolve() for file in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False
