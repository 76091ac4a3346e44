"""Signs of life of an engine whose process runs: that it answers, and that it has workers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from eideticnet.serving.engine import HeldModel
from eideticnet.serving.home.state import State


@dataclass
class Liveness:
    """Of the engine called ``name``. ``silence``: seconds without an answer that are too many, or with
    no other answer than that our own keys are wrong. ``idleness``: those without any worker. While one
    model is answered for, nothing is done about the others: that would take this one away."""

    name: str
    silence: float
    idleness: float
    _sign: str = ""
    _silent: float | None = None
    _idle: float | None = None

    def beat(self, state: State, held: Mapping[str, HeldModel]) -> None:
        """The engine answered, and holds this, of which ``state`` is to be served."""
        self.heard()
        works = any(_works(held.get(name), model.default.version) for name, model in state.models.items())
        self._idle = None if works or not state.models else self._idle or time.monotonic()

    def heard(self) -> None:
        """The engine answered, if only to refuse."""
        self._silent = None

    def miss(self, sign: str) -> None:
        """The engine gave no answer that is a sign of life; what it did instead, as "answered nothing"."""
        self._sign = sign
        self._silent = self._silent or time.monotonic()

    def lost(self) -> str:
        """Why the engine is past help, in a sentence; "" while it is not."""
        now = time.monotonic()
        if self._silent is not None and now - self._silent > self.silence:
            return f"{self.name} has {self._sign} for {now - self._silent:.0f} s"
        if self._idle is not None and now - self._idle > self.idleness:
            return f"no worker of any model has been ready for {now - self._idle:.0f} s"
        return ""


def _works(model: HeldModel | None, version: str) -> bool:
    held = model.versions.get(version) if model else None
    return held is not None and held.ready > 0
