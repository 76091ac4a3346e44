"""Waiting for what happens, however long a machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 180.0
"""Seconds to wait for what comes in one or two: no machine is so slow, and who waits in vain still ends."""


def until(true: Callable[[], Any]) -> Any:
    """What ``true`` returns once it is not false."""
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def eventually(check: Callable[[], Any]) -> None:
    """Until ``check`` passes; in the end what it found wrong last."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
