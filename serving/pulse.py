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
    _silent: float | None = None
    _idle: dict[str, float] = field(default_factory=dict)

    def beat(self, held: Mapping[str, HeldModel]) -> None:
        """TorchServe answered, and holds this."""
        now, self._silent = time.monotonic(), None
        self._idle = {name: self._idle.get(name, now) for name, model in held.items() if not _works(model)}

    def miss(self) -> None:
        """TorchServe gave no answer."""
        self._silent = time.monotonic() if self._silent is None else self._silent

    def lost(self) -> str:
        """Why TorchServe is past help, in a sentence; "" while it is not."""
        now = time.monotonic()
        if self._silent is not None and now - self._silent > self.silence:
            return f"TorchServe has answered nothing for {now - self._silent:.0f} s"
        for name, since in self._idle.items():
            if now - since > self.idleness:
                return f"no worker of model {name} has been ready for {now - since:.0f} s"
        return ""


def _works(model: HeldModel) -> bool:
    default = model.versions.get(model.default)
    return default is not None and default.ready > 0
