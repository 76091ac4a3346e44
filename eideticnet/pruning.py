"""Pruning: find the smallest set of neurons that does a task without loss (paper, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eideticnet.block import Block
from eideticnet.errors import ConfigError
from eideticnet.names import plain
from eideticnet.program import Program
from eideticnet.rules import floors, producers
from eideticnet.schedules import SCHEDULES, STEADY, Pace, Schedule
from eideticnet.scores import OVERALL, SCORES, Score, Scores, importance
from eideticnet.training import Event, Lesson, measured, recover


@dataclass(frozen=True)
class Pruning:
    """``score``: what ranks the neurons (``scores.py``). ``schedule``: in which steps they go
    (``schedules.py``). ``step``: share of the neurons still left that goes at once, at least one.
    ``threshold``: by how much, as a fraction of 1, the training accuracy may fall below what it
    was at convergence. ``recovery_epochs``: for how long it may be won back after each step, at
    ``lr_factor`` times the optimizer's learning rate. ``min_width``: neurons that stay in every
    group, or in the groups of the layers named.
    """

    score: Score = "l2"
    step: float = 0.1
    threshold: float = 0.01
    recovery_epochs: int = 5
    min_width: int | Mapping[str, int] = 1
    schedule: Schedule = "constant"
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ConfigError(f"pruning score {self.score!r}: use {', '.join(SCORES)}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"pruning schedule {self.schedule!r}: use {', '.join(SCHEDULES)}")
        for name in ("step", "threshold", "lr_factor", "recovery_epochs"):
            number = plain(getattr(self, name))
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigError(f"pruning {name} {number!r}: give a number")
        if not 0 < self.step < 1:
            raise ConfigError(f"pruning step {self.step}: use a share between 0 and 1")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"pruning threshold {self.threshold}: use a fraction of 1, such as 0.01")
        if not 0 < self.lr_factor <= 1:
            raise ConfigError(f"pruning lr_factor {self.lr_factor}: use a factor in (0, 1], such as 0.5")
        widths = self.min_width.values() if isinstance(self.min_width, Mapping) else [self.min_width]
        if not all(hasattr(plain(width), "__index__") for width in widths):
            raise ConfigError(f"pruning min_width {self.min_width!r}: use whole numbers")
        if self.recovery_epochs < 0 or min(widths, default=1) < 1:
            raise ConfigError("recovery_epochs must be at least 0 and min_width at least 1")

    def least(self, program: Program) -> dict[str, int]:
        """The least width of each feature group, also what its operations need; ``ConfigError`` for a
        name that ``program`` does not have. A layer's name stands for the group that it writes."""
        least = floors(program)
        if not isinstance(self.min_width, Mapping):
            return {g: max(floor, self.min_width) for g, floor in least.items()}
        names = {g: {g, *(s.layer or g for s in producers(program, g))} for g in program.groups}
        known = {name for group in names.values() for name in group}
        if unknown := sorted(set(self.min_width) - known):
            raise ConfigError(f"min_width names {unknown[0]!r}; known: {', '.join(sorted(known))}")
        asked = self.min_width
        return {g: max(least[g], *(asked[n] for n in named if n in asked), 1) for g, named in names.items()}


def prune(lesson: Lesson, block: Block, pruning: Pruning) -> Block:
    """Remove neurons by the schedule until accuracy can't be recovered; the last block that could.

    ``block`` has converged; what is returned still reaches its accuracy less the threshold.
    """
    least = pruning.least(block.program)
    trials = _Trials(lesson, pruning, least, measured(lesson, block) - pruning.threshold)
    return SCHEDULES[pruning.schedule](block, trials, pruning.step, least)


@dataclass
class _Trials:
    """Removes a share of a block's neurons and recovers what that cost, if it can."""

    lesson: Lesson
    pruning: Pruning
    least: Mapping[str, int]
    target: float
    made: int = field(default=0)

    def __call__(self, block: Block, share: float, pace: Pace = STEADY) -> tuple[Block, bool]:
        keep = self._choose(block, share)
        if keep is None:
            return block, False
        smaller = block.shrink(keep)
        phase, rate = f"prune {self.made}", self.pruning.lr_factor * pace.rate
        epochs = math.ceil(self.pruning.recovery_epochs * pace.epochs)
        with self.lesson.journal.tracking(good=block):
            reached = recover(self.lesson, smaller, phase, self.target, epochs, rate)
        self.lesson.report(Event(self.lesson.task, "prune", self.made, 0.0, reached, smaller.own))
        self.made += 1
        return smaller, reached >= self.target

    def _choose(self, block: Block, share: float) -> dict[str, Tensor] | None:
        """Which neurons stay, from the journal if that knows it."""

        def gone() -> dict[str, list[int]] | None:
            score = self.pruning.score
            keep = choose(importance(self.lesson, block, score), share, self.least, score in OVERALL)
            if keep is None:
                return None
            return {g: _without(block.own[g], kept).tolist() for g, kept in keep.items()}

        found = self.lesson.journal.value(gone)
        if found is None:
            return None
        return {g: _without(block.own[g], torch.tensor(i, dtype=torch.int64)) for g, i in found.items()}


def _without(count: int, some: Tensor) -> Tensor:
    """The indices below ``count`` that are not in ``some``."""
    indices = torch.arange(count)
    return indices[~torch.isin(indices, some)]


def choose(scores: Scores, share: float, least: Mapping[str, int], overall: bool) -> dict[str, Tensor] | None:
    """Sorted indices of the neurons that stay in each group; None if none may go.

    The lowest ``share`` of all neurons goes, or of each group's if not ``overall``: at least one,
    and none where a group has no more than ``least``.
    """
    spare = {g: max(len(s) - least[g], 0) for g, s in scores.items()}
    if not any(spare.values()):
        return None
    if overall:
        gone = _lowest_overall(scores, spare, share)
    else:
        gone = {g: min(max(int(len(s) * share), 1), spare[g]) for g, s in scores.items()}
    return {g: s.argsort(stable=True)[gone[g] :].sort().values for g, s in scores.items()}


def _lowest_overall(scores: Scores, spare: Mapping[str, int], share: float) -> dict[str, int]:
    """How many neurons go in each group if the lowest over all groups go first; of equal ones the
    same share of each group."""
    total = max(int(sum(len(s) for s in scores.values()) * share), 1)
    ranked = {g: s.sort().values[: spare[g]].tolist() for g, s in scores.items()}
    candidates = [
        (v, (i + 1) / len(scores[g]), g) for g, values in ranked.items() for i, v in enumerate(values)
    ]
    gone = dict.fromkeys(scores, 0)
    for *_, group in sorted(candidates)[:total]:
        gone[group] += 1
    return gone
