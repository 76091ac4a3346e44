"""``serving stop``: end a server from outside, and wait for it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from serving.errors import ServingError
from serving.home import Home
from serving.running import Running

_PAUSE_SECONDS = 0.1


def stop_server(home: Home, running: Running, seconds: float) -> None:
    """SIGTERM to the supervisor; ``ServingError`` if it still serves after so many seconds."""
    if not _serves(home, running.pid):
        raise ServingError(
            f"process {running.pid}, which serves in {home.root}, is in another container or account: "
            "stop it there"
        )
    with suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while home.served():
        if time.monotonic() > deadline:
            raise ServingError(f"process {running.pid} still serves after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)


def _serves(home: Home, pid: int) -> bool:
    """Whether the process of that number here is the one that holds the home's lock: a container has
    numbers of its own."""
    if not Path("/proc/self/fd").exists():
        return True
    try:
        return home.server_lock.resolve() in {file.resolve() for file in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False
