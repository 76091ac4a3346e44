"""Ctrl-C and the other signals that end a command: one line that says what comes then, and no traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_MOMENT = 0.01
_again = [signal.SIG_DFL]
"""What the next ones do once the first has begun the end: the last entry counts."""


@contextmanager
def heeding_signals() -> Iterator[None]:
    """While the context lasts, the first of them ends a command in good order, the next one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, told = {each: signal.getsignal(each) for each in _SIGNALS}, sys.unraisablehook
    for each, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup and shell scripts have it
            signal.signal(each, _stop)
    sys.unraisablehook = partial(_raised_in_vain, told)
    try:
        yield
    finally:
        sys.unraisablehook = told
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def unhurried() -> Iterator[None]:
    """What is done inside ends in good order, however many more of them come after the first."""
    _again.append(signal.SIG_IGN)
    try:
        yield
    finally:
        _again.pop()


def heed(number: signal.Signals) -> None:
    """Heed a signal that this process was told to ignore, as what a shell starts in the background is."""
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, _again[-1])
    raise KeyboardInterrupt(number)


def _raised_in_vain(told: Callable[[Any], object], unraisable: Any) -> None:
    """Raise the end once more, a moment later: Python ignores what is raised while it forks, or collects
    garbage."""
    stop = unraisable.exc_value
    if not isinstance(stop, KeyboardInterrupt):
        told(unraisable)
        return

    def again(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(*stop.args)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _MOMENT)


@contextmanager
def stoppable(then: str = "") -> Iterator[None]:
    """Let an interrupt end the program with what comes ``then``, and with the status that shells know."""
    try:
        yield
    except KeyboardInterrupt as stop:
        number = int(stop.args[0]) if stop.args else signal.SIGINT
        print(f"interrupted: {then}" if then else "interrupted", file=sys.stderr)
        raise SystemExit(128 + number) from None
