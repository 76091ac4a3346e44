"""Ctrl-C and SIGTERM on the command line: one line that says what comes then, and no traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_run = next((after for word, after in pairwise(sys.orig_argv) if word == "-m"), "")

if (sys.argv[:1], _run) == (["-m"], "eideticnet") and signal.getsignal(
    signal.SIGINT
) is signal.default_int_handler:
    # `python -m eideticnet` imports torch for some seconds: until it heeds signals, Ctrl-C ends it as it
    # ends a program in C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def heeding_signals() -> Iterator[None]:
    """While the context lasts, the first of them ends a command in good order, the next one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    for each, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup and shell scripts have it
            signal.signal(each, _stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


@contextmanager
def stoppable(then: str) -> Iterator[None]:
    """Let an interrupt end the program with what comes ``then``, and with the status that shells know."""
    try:
        yield
    except KeyboardInterrupt as stop:
        number = int(stop.args[0]) if stop.args else signal.SIGINT
        print(f"interrupted: {then}", file=sys.stderr)
        raise SystemExit(128 + number) from None
