"""Schedules: in which steps a block shrinks to the least that still does its task.

A schedule makes trials. A trial removes a share of a block's neurons, at least one, lets the rest
recover, and says whether it did; it gives the block itself where no neuron may go. Every schedule
ends, whatever the trials say: a trial that recovers leaves fewer neurons, and one that does not
narrows what is tried next. None ends before a step of one neuron has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from eideticnet.block import Block

Schedule = Literal["constant", "fast", "shrinking", "bisection"]


@dataclass(frozen=True)
class Pace:
    """How a block recovers: ``rate`` times the learning rate, for ``epochs`` times the epochs (at
    least one, where there are any)."""

    rate: float = 1.0
    epochs: float = 1.0


STEADY = Pace()
HURRIED = Pace(rate=2.0, epochs=0.8)
"""A step costs few neurons, so what has to be won back is near: a greater rate finds it in fewer
epochs, and what it doesn't find soon it seldom finds."""


class Trial(Protocol):
    """What is left, and whether it recovered. A share is one of all neurons where it is taken
    ``overall``, or else of each group's."""

    @property
    def overall(self) -> bool: ...

    def __call__(self, block: Block, share: float) -> tuple[Block, bool]: ...


def constant(block: Block, trial: Trial, step: float, least: Mapping[str, int]) -> Block:
    """Remove ``step`` of what is left (the paper's), in O(log n / step) trials. A step that fails is
    halved, down to one neuron, and what recovers then goes on in those smaller steps: log2 n failures
    at most."""
    while True:
        smaller, recovered = trial(block, step)
        if recovered:
            block = smaller
        elif not (step := _half(block, smaller, trial.overall)):
            return block


def bisection(block: Block, trial: Trial, step: float, least: Mapping[str, int]) -> Block:
    """Bisect the number of neurons between the fewest that recovered and the most that did not,
    on a logarithmic scale, until they lie within one ``step``: O(log (log n / step)) trials. Then go
    on in constant steps, of half of what is left between the two.

    Each trial shrinks the last block that recovered. One jump may fail where small steps would not, and
    then what is found is wider.
    """
    fewest = sum(min(n, least[g]) for g, n in block.own.items())
    failed = fewest * (1 - step)  # below what is allowed, so that the fewest can be reached
    while failed < (size := _size(block)) * (1 - step):
        smaller, recovered = trial(block, 1 - (failed / size) ** 0.5)
        if recovered:
            block = smaller
        elif failed < _size(smaller) < size:
            failed = _size(smaller)
        else:
            break
    return constant(block, trial, (1 - failed / size) / 2, least)


def _half(block: Block, smaller: Block, overall: bool) -> float:
    """The share that is half of what went; 0 where that was one neuron, of each group unless ``overall``."""
    gone = {g: n - smaller.own[g] for g, n in block.own.items()}
    if overall:
        went, of = sum(gone.values()), _size(block)
    else:
        went, of = max(((n, block.own[g]) for g, n in gone.items()), default=(0, 0))
    return went / of / 2 if went > 1 else 0.0


def _size(block: Block) -> int:
    return sum(block.own.values())


SCHEDULES: dict[Schedule, Callable[[Block, Trial, float, Mapping[str, int]], Block]] = {
    "constant": constant,
    "fast": constant,
    "shrinking": constant,  # what it was called when the constant step was not yet halved
    "bisection": bisection,
}
PACES: dict[Schedule, Pace] = {"fast": HURRIED}
"""The others are steady."""
