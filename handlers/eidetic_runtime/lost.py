"""Ends a worker process in which CUDA no longer works, so that its server starts another.

After an illegal access, a failed launch or a lost device every later call of the process fails too: it would
answer 500 until it is restarted. A lack of memory passes.
"""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger("eidetic.lost")

_SECONDS = 0.5
"""Enough for the answers of the batch that failed to go out."""


def end_if_lost(error: str) -> None:
    """End this process soon if ``error`` is one of CUDA that stays."""
    if "CUDA" in error and "out of memory" not in error:
        log.error("CUDA is lost to this worker, which ends: %s", error)
        timer = threading.Timer(_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
