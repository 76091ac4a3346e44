"""Pruning: find the smallest set of neurons that does a task without loss (paper, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from eideticnet.block import Block
from eideticnet.errors import ConfigError
from eideticnet.learn.schedules import PACES, SCHEDULES, STEADY, Schedule
from eideticnet.learn.scores import OVERALL, SCORES, Score, Scores, importance
from eideticnet.learn.training import Event, Job, measured, recover
from eideticnet.names import plain
from eideticnet.program import Program, spread
from eideticnet.rules import floors, producers

Number = TypeVar("Number", bound=float)
ROUNDING = 1e-9
"""0.29 of 100 neurons are 29, whatever the product is in binary."""


@dataclass(frozen=True)
class Pruning:
    """How the smallest set of neurons is found that does a task without loss."""

    score: Score = "l2"
    """What ranks the neurons."""
    step: float = 0.1
    """Share of the neurons still left that goes at once, at least one."""
    threshold: float = 0.01
    """By how much the training accuracy may fall below what it was at convergence, as a fraction of 1."""
    recovery_epochs: int = 5
    """For how long it may be won back after each step."""
    min_width: int | Mapping[str, int] = 1
    """Neurons of each layer that stay, or by layer."""
    schedule: Schedule = "constant"
    """In which steps they go; `fast` needs fewer epochs, `bisection` fewer trials."""
    lr_factor: float = 1.0
    """The recovery's learning rate, in terms of the optimizer's."""
    budget: float | Mapping[str, float] = 1.0
    """Share of a layer's neurons that a task may own at most, or by layer, whatever accuracy that costs."""

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
        if not all(type(plain(width)) is int for width in widths):
            raise ConfigError(f"pruning min_width {self.min_width!r}: use whole numbers")
        if self.recovery_epochs < 0 or min(widths, default=1) < 1:
            raise ConfigError("recovery_epochs must be at least 0 and min_width at least 1")
        for share in self.budget.values() if isinstance(self.budget, Mapping) else [self.budget]:
            _check_share(plain(share))

    def limits(self, program: Program, share: Mapping[str, int] = MappingProxyType({})) -> Limits:
        """Between what widths a block is pruned; ``share`` are neurons by group that it may own at most.
        ``ConfigError`` for a name that ``program`` does not have, and where the budget is below what
        ``min_width`` or the operations need."""
        asked = _by_group("min_width", self.min_width, program, max)
        budget, needed = _by_group("budget", self.budget, program, min), floors(program)
        least, most = dict[str, int](), dict[str, int]()
        for kin in program.kin:
            wanted = max(sum(needed[g] for g in kin), *(asked.get(g, 1) for g in kin))
            share_of = min(budget.get(g, 1.0) for g in kin)
            count = floor(share_of * sum(program.groups[g] for g in kin) + ROUNDING)
            if len(kin) == 1:
                least[kin[0]], most[kin[0]] = wanted, count
            else:
                there = {g: min(program.groups[g], share.get(g, program.groups[g])) for g in kin}
                least |= spread(wanted, there, needed)
                most |= spread(count, there, least)
        for group, total in program.groups.items():
            if most[group] < min(least[group], total):
                share_of = budget.get(group, 1.0)
                raise ConfigError(
                    f"budget {share_of} of the {total} neurons of {group!r} is {most[group]}, and "
                    f"min_width or its operations keep {least[group]}; raise the budget, or widen the trunk"
                )
        most = {g: min(n, share.get(g, n)) for g, n in most.items()}
        return Limits(self, {g: min(n, most[g]) for g, n in least.items()}, most)


@dataclass(frozen=True)
class Limits:
    """How one block is pruned: the ``least`` neurons by group that stay, also what its operations need,
    and the ``most`` that may."""

    pruning: Pruning
    least: Mapping[str, int]
    most: Mapping[str, int]

    def exceeded(self, block: Block) -> bool:
        """Whether ``block`` owns more than it may keep."""
        return any(n > self.most[g] for g, n in block.own.items())


def _layers(program: Program, group: str) -> list[str]:
    paths = {s.layer: s.rule for s in producers(program, group) if s.layer}
    return [*paths, *(path.rpartition(".")[0] for path, rule in paths.items() if rule == "conv_part")]


def _check_share(share: object) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"pruning budget {share!r}: use a share of the neurons, such as 0.2")


def _by_group(
    key: str, asked: Number | Mapping[str, Number], program: Program, strictest: Callable[..., Number]
) -> dict[str, Number]:
    """What is ``asked`` of each group; a layer's name stands for the group that it writes."""
    if not isinstance(asked, Mapping):
        return dict.fromkeys(program.groups, asked)
    names = {group: {group, *_layers(program, group)} for group in program.groups}
    known = {name for group in names.values() for name in group}
    if unknown := sorted(set(asked) - known):
        raise ConfigError(f"{key} names {unknown[0]!r}; known: {', '.join(sorted(known))}")
    found = {group: [asked[n] for n in named if n in asked] for group, named in names.items()}
    return {group: strictest(values) for group, values in found.items() if values}


def prune(job: Job, block: Block, limits: Limits) -> Block:
    """Remove neurons down to the budget, then by the schedule until accuracy can't be recovered; the last
    block that could.

    ``block`` has converged; what is returned still reaches its accuracy less the threshold, unless
    the budget alone cost more. On held-out data it is the best accuracy so far that is to be reached.
    """
    pruning, reached = limits.pruning, True
    trials = _Trials(job, pruning, limits.least, measured(job, block) - pruning.threshold)
    while limits.exceeded(block):
        block, reached = trials.without(block, pruning.step, limits.most)
    return SCHEDULES[pruning.schedule](block, trials, pruning.step, limits.least) if reached else block


@dataclass
class _Trials:
    """Removes a share of a block's neurons and recovers what that cost, if it can."""

    job: Job
    pruning: Pruning
    least: Mapping[str, int]
    target: float
    made: int = 0

    @property
    def overall(self) -> bool:
        return self.pruning.score in OVERALL

    def __call__(self, block: Block, share: float) -> tuple[Block, bool]:
        return self.without(block, share, self.least)

    def without(self, block: Block, share: float, least: Mapping[str, int]) -> tuple[Block, bool]:
        """The block without that share of its neurons, and whether it recovered; itself where none may go."""
        keep = self._choose(block, share, least)
        if keep is None:
            return block, False
        smaller, pace = block.shrink(keep), PACES.get(self.pruning.schedule, STEADY)
        phase, rate = f"prune {self.made}", self.pruning.lr_factor * pace.rate
        epochs = ceil(self.pruning.recovery_epochs * pace.epochs)
        with self.job.journal.tracking(good=block):
            reached = recover(self.job, smaller, phase, self.target, epochs, rate)
        self.job.report(Event(self.job.task, "prune", self.made, 0.0, reached, smaller.own))
        self.made, recovered = self.made + 1, reached >= self.target
        if self.job.held_out is not None:  # the best that was seen on other data, which training raises
            self.target = max(self.target, reached - self.pruning.threshold)
        return smaller, recovered

    def _choose(self, block: Block, share: float, least: Mapping[str, int]) -> dict[str, Tensor] | None:
        """Which neurons stay, from the journal if that knows it."""

        def gone() -> dict[str, list[int]] | None:
            scores = importance(self.job, block, self.pruning.score)
            keep = choose_neurons(scores, share, least, self.overall, block.program.kin)
            if keep is None:
                return None
            return {g: _without(block.own[g], kept).tolist() for g, kept in keep.items()}

        found = self.job.journal.value(gone)
        if found is None:
            return None
        return {g: _without(block.own[g], torch.tensor(i, dtype=torch.int64)) for g, i in found.items()}


def overdrawn(before: float, after: float, target: float) -> str:
    """What a budget cost, in a sentence: training accuracy ``before`` pruning and ``after`` it, where the
    threshold allows ``target``; "" where it cost no more than that."""
    if after >= target:
        return ""
    return (
        f"within its budget training accuracy is {after:.3f}, before pruning it was {before:.3f}, and the "
        f"threshold allows {target:.3f}; raise the budget, plan fewer tasks, or take a wider trunk"
    )


def _without(count: int, some: Tensor) -> Tensor:
    """The indices below ``count`` that are not in ``some``."""
    indices = torch.arange(count)
    return indices[~torch.isin(indices, some)]


def choose_neurons(
    scores: Scores, share: float, least: Mapping[str, int], overall: bool, kin: Iterable[Sequence[str]] = ()
) -> dict[str, Tensor] | None:
    """Sorted indices of the neurons that stay in each group; None if none may go.

    The lowest ``share`` of all neurons goes, or of each group's if not ``overall``, ``kin`` being one: at
    least one, and none where a group has no more than ``least``.
    """
    spare = {g: max(len(s) - least[g], 0) for g, s in scores.items()}
    if not any(spare.values()):
        return None
    if overall:
        gone = _lowest_overall(scores, spare, share)
    else:
        gone = {g: min(max(int(len(s) * share), 1), spare[g]) for g, s in scores.items()}
        for groups in (there for kind in kin if len(there := [g for g in kind if g in scores]) > 1):
            gone |= _lowest_overall({g: scores[g] for g in groups}, spare, share)
    return {g: s.argsort(stable=True)[gone[g] :].sort().values for g, s in scores.items()}


def _lowest_overall(scores: Scores, spare: Mapping[str, int], share: float) -> dict[str, int]:
    """How many neurons go in each group if the lowest over all groups go first; of equal ones the
    same share of each group."""
    total = max(int(sum(len(s) for s in scores.values()) * share), 1)
    ranked = {g: s.sort().values[: spare[g]].tolist() for g, s in scores.items()}
    places = ((g, i, value) for g, values in ranked.items() for i, value in enumerate(values))
    candidates = [(value, (i + 1) / len(scores[g]), g) for g, i, value in places]
    gone = dict.fromkeys(scores, 0)
    for *_, group in sorted(candidates)[:total]:
        gone[group] += 1
    return gone
