"""Whether training ended too early: what its accuracy and its last epochs tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

GOOD = 0.99
"""A training accuracy that leaves nothing to ask."""
POOR = 0.9
"""One that is far from converged, however flat it was."""
NEAR_GUESSING = 0.5
"""Share of the loss of guessing, above which little was learned yet."""
FALLING = 0.1
"""A loss that fell by this share within the last ``patience`` epochs would have gone on falling."""


@dataclass(frozen=True)
class Course:
    """How a module converged on ``classes`` classes: the ``accuracy`` that it kept, the ``losses`` of all
    epochs and how many of them in a row were ``flat``, of ``patience`` and ``max_epochs``. ``measured_on``:
    which data the accuracy is of."""

    accuracy: float
    losses: Sequence[float]
    flat: int
    classes: int
    patience: int
    max_epochs: int
    measured_on: str = "training"
    annealed: bool = False
    """Whether the learning rate has fallen as far as it was meant to when ``max_epochs`` are over."""

    @property
    def ended(self) -> bool:
        """Whether no epoch is to come."""
        return self.flat >= self.patience or len(self.losses) >= self.max_epochs

    @property
    def doubt(self) -> str:
        """What speaks for more training, in a sentence; "" if nothing does."""
        if self.accuracy >= GOOD:
            return ""
        found = f"{self.measured_on} accuracy is {self.accuracy:.3f}"
        last, guessing = self.losses[-1], log(self.classes)
        before = self.losses[-min(self.patience, len(self.losses))]
        if self.flat < self.patience and not self.annealed:
            rose = 2 * self.flat < min(self.patience, len(self.losses))
            how = "it was still rising" if rose else "its patience was not at an end"
            return f"{found}, and {how} when max_epochs = {self.max_epochs} ended it; raise max_epochs"
        if last > NEAR_GUESSING * guessing:
            return (
                f"{found} with a loss of {last:.3f} where guessing has {guessing:.3f}; raise patience and "
                "settle_patience, or the learning rate"
            )
        if last < (1 - FALLING) * before:
            return (
                f"{found} and the loss fell from {before:.3f} to {last:.3f} in the last {self.patience} "
                "epochs; raise patience and settle_patience"
            )
        if self.accuracy < POOR:
            return f"{found}, far from converged; raise patience or the learning rate, or take a wider trunk"
        return ""
