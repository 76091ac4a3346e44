"""Learning one block: what it may own, what it starts from, how it is taught and frozen."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eideticnet.block import Block
from eideticnet.errors import BudgetWarning, CapacityError, DataError, UnderfitWarning
from eideticnet.hashing import json_hash
from eideticnet.inputs import Inputs
from eideticnet.learn.prefix import logits_on
from eideticnet.learn.pruning import Limits, Pruning, overdrawn, prune
from eideticnet.learn.reading import Reading
from eideticnet.learn.threads import using, worth
from eideticnet.learn.training import BUDGET, LAST_PHASE, Event, Job, converge
from eideticnet.learned import ROUTER, Learned
from eideticnet.program import HEAD, Program, spread
from eideticnet.rules import floors
from eideticnet.seeding import seeded
from eideticnet.trace.normal import as_named
from eideticnet.trace.selfcheck import ROWS, check_adopted

WhenFull = Literal["refuse", "reuse", "widen"]
"""What to do where a layer has no free neuron left."""


def known_when_full(value: object) -> None:
    """Raise ``DataError`` for anything else."""
    if value not in get_args(WhenFull):
        raise DataError(f"when_full {value!r}: use {', '.join(get_args(WhenFull))}")


def free(learned: Learned, program: Program) -> dict[str, int]:
    """Neurons free in each group once the router's are thrown back."""
    owned = [widths for owner, widths in learned.owned().items() if owner != ROUTER]
    return {g: n - sum(w[g] for w in owned) for g, n in program.groups.items()}


def sharers(learned: Learned, name: str, planned: int | None) -> int:
    """How many tasks share what is free: ``name``, and those of the ``planned`` that are still to come."""
    known = {name, *(task.name for task in learned.tasks)}
    return 1 + max((planned or 0) - len(known), 0)


@dataclass(frozen=True)
class Room:
    """What is free for a number of ``tasks``, an equal share for each, of which each needs the ``least``
    (1, where that is silent). What one of them leaves is for those after it. ``alone``: without the features
    of all earlier tasks."""

    learned: Learned
    tasks: int = 1
    least: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    alone: bool = True

    def share(self, program: Program) -> dict[str, int]:
        """Neurons of each group that the first of them may own."""
        there, shares = free(self.learned, program), dict[str, int]()
        for kin in program.kin:
            left = {g: there[g] for g in kin}
            shares |= spread(sum(left.values()) // self.tasks, left, floors(program))
        return {g: shares[g] for g in program.groups}

    def lacking(self, program: Program) -> list[str]:
        """The groups whose share is too small. Of a layer's many groups some may be empty for a task that has
        the features of all earlier ones."""
        share, needed, found = self.share(program), floors(program), list[str]()
        for kin in program.kin:
            small = [g for g in kin if share[g] < self.least.get(g, min(needed[g], 1))]
            enough = len(kin) > 1 and not self.alone and any(share[g] for g in kin)
            found += [] if enough else small
        return found

    def found(self, program: Program) -> str:
        """What is lacking, in words."""
        there = free(self.learned, program)
        if full := [g for g in self.lacking(program) if there[g] == 0]:
            return f"no free neuron in {', '.join(full)}"
        group, tasks = self.lacking(program)[0], f"{self.tasks} tasks" if self.tasks > 1 else "the task"
        needed = self.least.get(group, 1)
        why = " (min_width, or its operations)" if needed > 1 else ""
        return f"{group} has {there[group]} free neurons for {tasks} to come, and each needs {needed}{why}"


def with_room(room: Room, program: Program, wanted_by: str, reading: Reading, when_full: WhenFull) -> Program:
    """``program``, its full groups half as wide again where the user wants that; ``CapacityError``
    where they don't and what is learned could not do with the features there are."""
    everyone = bool(room.learned.tasks) and reading.reads_everyone(room.learned)
    room = replace(room, alone=not everyone)
    while (full := room.lacking(program)) and when_full == "widen":
        program = program.widened({g: ceil(program.groups[g] / 2) for g in full})
    if full and not (when_full == "reuse" and everyone):
        found = f"{wanted_by}: {room.found(program)}"
        if room.tasks > 1:
            raise CapacityError(found, 'plan fewer tasks, call widen, or pass when_full="widen"')
        raise CapacityError(
            found,
            'prune harder, call widen, or pass when_full="widen", or "reuse" to learn with the features '
            "there are (of all tasks); in a new network planned_tasks, or Pruning(budget=...), keeps neurons "
            "for later tasks",
        )
    return program


def logits_over(learned: Learned, inputs: Inputs) -> Callable[[nn.Module, Tensor], Tensor]:
    """How a block that is being learned on top of ``learned`` answers normalised inputs."""
    found = dict[tuple[object, ...], Callable[[Block, Tensor], Tensor]]()

    def logits(block: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(block, Block)
        reading = block.reads, *block.unread.items()
        if reading not in found:
            earlier = [learned.block(owner) for owner in learned.closure(*block.reads)]
            found[reading] = logits_on(earlier, block, inputs)
        return found[reading](block, x)

    return logits


@dataclass(frozen=True)
class BlockPlan:
    """A block to be learned: ``own`` neurons by group to start with, of which it may keep a ``share`` (all,
    where that is silent), and whom it reads. ``pretrained`` is a trunk whose weights it starts from."""

    program: Program
    owner: str
    reading: Reading
    own: Mapping[str, int]
    pretrained: nn.Module | None = None
    share: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def learn(self, job: Job, learned: Learned, pruning: Pruning | None, device: torch.device) -> Block:
        """The block, taught and frozen."""
        limits = None if pruning is None else pruning.limits(self.program, self.share)
        share = {g: self.share.get(g, n) for g, n in self.own.items()}
        own = {g: n if limits and share[g] else share[g] for g, n in self.own.items()}
        widths = {**learned.owned(), self.owner: {**own, HEAD: job.objective.classes}}

        def fresh() -> Block:
            with seeded(*job.seed, "initial weights"):
                owners, unread = self.reading.owners, self.reading.unread
                block = Block(self.program, self.owner, owners, widths, unread=unread)
            if self.pretrained is not None:
                _adopt(block, self.pretrained)
            return block.to(device)

        if self.pretrained is not None:
            check_adopted(fresh().cpu().eval(), self.pretrained, job.inputs.to_try(ROWS))

        def key() -> str:
            frozen = {o: learned.block(o).fingerprint for o in learned.blocks}
            block = fresh()
            learns = [weight.requires_grad for weight in block.parameters()]
            start = None if self.pretrained is None else (block.hashes(), learns)
            wiring = [self.program.to_json(), self.owner, asdict(self.reading), widths, dict(self.share)]
            return json_hash([*job.key(block), repr(pruning), frozen, start, wiring])

        def taught() -> Block:
            block = fresh()
            with using(job.journal.value(partial(worth, job, block))):
                return _teach(job, block, limits)

        return job.journal.run(key, taught)


def _adopt(block: Block, trunk: nn.Module) -> None:
    """Start ``block`` from the trunk's weights: it has to be all of it."""
    if block.reads or block.own != block.program.groups:
        raise DataError("pretrained: only the first task owns every neuron and can start from a trunk")
    try:
        block.adopt(as_named(trunk))
        _freeze_as(block, trunk)
    except (AttributeError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise DataError(f"pretrained: not the trunk that the network was made from: {told}") from error


def _freeze_as(block: Block, trunk: nn.Module) -> None:
    """What ``requires_grad`` says of the trunk's weights holds for the block that has taken them over."""
    marks, marked = copy.deepcopy(trunk), copy.deepcopy(block)
    with torch.no_grad():
        for weight in marks.parameters():
            weight.fill_(float(weight.requires_grad))
    marked.adopt(as_named(marks))
    mark = dict(marked.layers.named_parameters())
    for name, weight in block.layers.named_parameters():
        if not name.startswith(f"{HEAD}."):
            weight.requires_grad_(bool(mark[name].any()))


def _teach(job: Job, block: Block, limits: Limits | None) -> Block:
    """Train the block to convergence, keep the fewest neurons that will do, let those converge
    once more, and freeze them."""
    before = converge(job, block, "train", job.training.patience).accuracy
    over_budget = limits is not None and limits.exceeded(block)
    if limits is not None:
        block = prune(job, block, limits)
    course = converge(job, block, LAST_PHASE, job.training.settle_patience)
    told = {course.doubt: UnderfitWarning}
    if limits is not None and over_budget:
        job.report(Event(job.task, BUDGET, 0, course.losses[-1], course.accuracy, dict(limits.most)))
        told[overdrawn(before, course.accuracy, before - limits.pruning.threshold)] = BudgetWarning
    for doubt, kind in told.items():
        if doubt:
            warnings.warn(f"{job.task}: {doubt}", kind, stacklevel=2)
    block.freeze()
    return block
