"""One change of a network at a time, in surroundings in which it can learn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from eideticnet.errors import BusyError, UnsupportedError

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
        """Run alone; ``BusyError`` at once if something else runs, in any thread."""
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


@contextmanager
def in_full_precision() -> Iterator[ExitStack]:
    """Without ``torch.autocast``, which would move logits."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield stack


@contextmanager
def able_to_learn() -> Iterator[None]:
    """With gradients, in full precision, and new tensors on the CPU, whatever surrounds the call.
    ``UnsupportedError`` where those would not be of float32, which only the whole process can change."""
    if torch.get_default_dtype() != torch.float32:
        raise UnsupportedError(
            f"the default dtype is {torch.get_default_dtype()}; networks compute in float32: call "
            "torch.set_default_dtype(torch.float32) first"
        )
    with in_full_precision() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # or else the mode would only cost time
            stack.enter_context(torch.device("cpu"))
        yield


def alone(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Let a method run, ``able_to_learn``, while no other one does that changes the same network, which has
    ``turns``."""

    @wraps(method)
    def taking_turns(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        name = kwargs.get("name", args[0] if args else None)
        what = f"{method.__name__} of {name!r}" if isinstance(name, str) else method.__name__
        with self.turns.take(what), able_to_learn():
            return method(self, *args, **kwargs)

    return taking_turns
