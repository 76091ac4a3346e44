"""Signs of life of a TorchServe whose process runs: that it answers, and that somebody works for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from eideticnet.serving.management import HeldModel
from eideticnet.serving.state import State


@dataclass
class Pulse:
    """``silence``: seconds without an answer that are too many, or with no other answer than that our own
    keys are wrong; ``idleness``: those without any worker. While one model is answered for, nothing is done
    about the others: that would take this one away."""

    silence: float
    idleness: float
    _sign: str = ""
    _silent: float | None = None
    _idle: float | None = None

    def beat(self, state: State, held: Mapping[str, HeldModel]) -> None:
        """TorchServe answered, and holds this, of which ``state`` is to be served."""
        self.heard()
        works = any(_works(held.get(name), model.default.version) for name, model in state.models.items())
        self._idle = None if works or not state.models else self._idle or time.monotonic()

    def heard(self) -> None:
        """TorchServe answered."""
        self._silent = None

    def miss(self, *, wrong_key: bool = False) -> None:
        """TorchServe gave no answer, or did not know its own key."""
        self._sign = "refused its own keys" if wrong_key else "answered nothing"
        self._silent = self._silent or time.monotonic()

    def lost(self) -> str:
        """Why TorchServe is past help, in a sentence; "" while it is not."""
        now = time.monotonic()
        if self._silent is not None and now - self._silent > self.silence:
            return f"TorchServe has {self._sign} for {now - self._silent:.0f} s"
        if self._idle is not None and now - self._idle > self.idleness:
            return f"no worker of any model has been ready for {now - self._idle:.0f} s"
        return ""


def _works(model: HeldModel | None, version: str) -> bool:
    held = model.versions.get(version) if model else None
    return held is not None and held.ready > 0
