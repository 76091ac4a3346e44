"""One change of a network at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from eideticnet.errors import BusyError

P = ParamSpec("P")
R = TypeVar("R")


class Turns:
    """Who may change ``what`` now. A copy of it, pickled or not, has turns of its own."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._running: dict[str, str] = {}

    def __reduce__(self) -> tuple[type[Turns], tuple[str]]:
        return Turns, (self._what,)

    @contextmanager
    def take(self, what: str) -> Iterator[None]:
        """Run alone; ``BusyError`` at once if something else runs, in whatever thread."""
        mine = f"{what} in thread {threading.current_thread().name!r}"
        try:
            running = self._running.setdefault("", mine)  # one step: of two threads one is first
            if running is not mine:
                raise BusyError(
                    f"{what}: this {self._what} is being changed by {running}; nothing was done, "
                    "call it again when that has returned"
                )
            yield
        finally:
            if self._running.get("") is mine:
                del self._running[""]


class Changing(Protocol):
    """What has turns."""

    @property
    def turns(self) -> Turns: ...


N = TypeVar("N", bound=Changing)


def alone(method: Callable[Concatenate[N, P], R]) -> Callable[Concatenate[N, P], R]:
    """Let a method run while no other one does that changes the same network."""

    @wraps(method)
    def taking_turns(self: N, /, *args: P.args, **kwargs: P.kwargs) -> R:
        name = kwargs.get("name", args[0] if args else None)
        with self.turns.take(f"{method.__name__} of {name!r}" if isinstance(name, str) else method.__name__):
            return method(self, *args, **kwargs)

    return taking_turns
