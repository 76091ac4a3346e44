"""Schedules: in which steps a block shrinks to the least that still does its task.

A schedule makes trials. A trial removes a share of a block's neurons, at least one, lets the rest
recover in one of two paces, and says whether it did; it gives the block itself where no neuron may
go. Every schedule ends, whatever the trials say: a trial that recovers leaves fewer neurons, and
one that does not narrows what is tried next.
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


class Trial(Protocol):
    """What is left, and whether it recovered."""

    def __call__(self, block: Block, share: float, pace: Pace = STEADY) -> tuple[Block, bool]: ...


def constant(block: Block, trial: Trial, step: float, least: Mapping[str, int]) -> Block:
    """Remove ``step`` of what is left until that fails once (the paper's): O(log n / step) trials."""
    return _descend(block, trial, step, STEADY)


def fast(block: Block, trial: Trial, step: float, least: Mapping[str, int]) -> Block:
    """The constant step with a hurried recovery. A step costs few neurons, so what has to be won back
    is near: a greater rate finds it in fewer epochs, and what it doesn't find soon it seldom finds."""
    return _descend(block, trial, step, HURRIED)


def _descend(block: Block, trial: Trial, step: float, pace: Pace) -> Block:
    while True:
        smaller, recovered = trial(block, step, pace)
        if not recovered:
            return block
        block = smaller


def shrinking(block: Block, trial: Trial, step: float, least: Mapping[str, int]) -> Block:
    """Remove ``step`` of what is left; halve it when that fails, down to one neuron of a group. Ends
    where not even that can go, with up to log2(n) more failures than ``constant``."""
    while True:
        smaller, recovered = trial(block, step)
        if recovered:
            block = smaller
        elif max(_gone(block, smaller)) <= 1:
            return block
        else:
            step /= 2


def bisection(block: Block, trial: Trial, step: float, least: Mapping[str, int]) -> Block:
    """Bisect the number of neurons between the fewest that recovered and the most that did not,
    on a logarithmic scale, until they lie within one ``step``: O(log (log n / step)) trials.

    Each trial shrinks the last block that recovered. Where only the number of neurons counts, it
    finds the same minimum as ``constant``; but one jump may fail where small steps would not, and
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
    return block


def _size(block: Block) -> int:
    return sum(block.own.values())


def _gone(block: Block, smaller: Block) -> list[int]:
    return [n - smaller.own[g] for g, n in block.own.items()] or [0]


SCHEDULES: dict[Schedule, Callable[[Block, Trial, float, Mapping[str, int]], Block]] = {
    "constant": constant,
    "fast": fast,
    "shrinking": shrinking,
    "bisection": bisection,
}
