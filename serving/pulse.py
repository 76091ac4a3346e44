"""Signs of life of a TorchServe whose process runs: that it answers, and that somebody works for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.management import HeldModel


@dataclass
class Pulse:
    """``silence``: seconds without an answer that are too many; ``idleness``: those without a worker."""

    silence: float
    idleness: float
    _heard: float = field(default_factory=time.monotonic)
    _worked: dict[str, float] = field(default_factory=dict)

    def beat(self, held: Mapping[str, HeldModel]) -> None:
        """TorchServe answered, and holds this."""
        self._heard = now = time.monotonic()
        waiting = {name for name, model in held.items() if not _works(model)}
        self._worked = {name: self._worked.get(name, now) if name in waiting else now for name in held}

    def lost(self) -> str:
        """Why TorchServe is past help, in a sentence; "" while it is not."""
        now = time.monotonic()
        if now - self._heard > self.silence:
            return f"TorchServe has answered nothing for {now - self._heard:.0f} s"
        for name, worked in self._worked.items():
            if now - worked > self.idleness:
                return f"no worker of model {name} has been ready for {now - worked:.0f} s"
        return ""


def _works(model: HeldModel) -> bool:
    default = model.versions.get(model.default)
    return default is not None and default.ready > 0
