"""``serving stop``: end a server from outside, and wait for it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from serving.errors import ServingError
from serving.running import Running

_PAUSE_SECONDS = 0.1


def stop_server(running: Running, seconds: float) -> None:
    """SIGTERM to the supervisor; ``ServingError`` if it is still there after so many seconds."""
    with suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while running.alive:
        if time.monotonic() > deadline:
            raise ServingError(f"process {running.pid} is still there after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)
