"""What a router is fitted from: the tasks' data or memory, their moments, validation data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from eideticnet.block import Block
from eideticnet.data.held import unmoved
from eideticnet.data.interleaving import interleaved
from eideticnet.data.plain import batches
from eideticnet.data.rows import Loader, Rows
from eideticnet.decision import RouteByLabel, RouterKind
from eideticnet.errors import DataError, DataWarning
from eideticnet.inputs import Inputs
from eideticnet.label_space import RouteByName
from eideticnet.learn.learning import BlockPlan, Room, WhenFull, free, with_room
from eideticnet.learn.pruning import Pruning
from eideticnet.learn.reading import owners_of
from eideticnet.learn.training import Job, accuracy
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.moments import FEATURES, WIDEST, gather
from eideticnet.program import Program
from eideticnet.route.calibration import calibrate
from eideticnet.route.gaussian import found_shrinkage, router_block, without_least
from eideticnet.route.options import LEAST, PRUNED, Routing
from eideticnet.rules import with_taps

TELLING, MOST = 20, 2000
"""Rows by which a head can be doubted, at least and at most."""


def refuse_twins(data: Mapping[str, Rows]) -> None:
    """``DataError`` if two tasks have one loader."""
    for name, other in combinations(data, 2):
        if data[name].loader is data[other].loader:
            raise DataError(f"tasks {name!r} and {other!r} have the same loader: which is whose?")


def doubt_whose(learned: Learned, data: Mapping[str, Rows], device: torch.device) -> None:
    """``DataWarning`` where another task's head has nearly all of a task's rows right while its own is
    guessing, or its own has next to none: loaders are swapped then, or labels in another order."""
    tasks = learned.current()
    for i, task in enumerate(tasks):
        right, count = _right(learned, task, data[task.name], device) if task.name in data else ([], 0)
        if count < TELLING:
            continue
        guessed, best = count / len(task.classes), max(range(len(tasks)), key=right.__getitem__)
        found = f"task {task.name!r}: its own head has {right[i]} of {count} rows right"
        if right[i] < 1.2 * guessed and right[best] > 0.95 * count:
            other = f"that of {tasks[best].name!r} has {right[best]}"
            warnings.warn(f"{found}, and {other}; are their loaders swapped?", DataWarning, stacklevel=3)
        elif right[i] < 0.2 * guessed:
            warnings.warn(f"{found}, less than by guessing; are labels in another order?", DataWarning, 3)


@torch.no_grad()
def _right(learned: Learned, task: Task, rows: Rows, device: torch.device) -> tuple[list[int], int]:
    """How many rows each head has right that has as many classes as the task, of how many; of none where
    not every class is among the first ``MOST``."""
    learned, right = learned.with_router(None, None), [0] * len(learned.current())
    labels = torch.empty(0, dtype=torch.int64)
    with unmoved(rows.loader), closing(rows.batches("whose")) as given:
        for x, y in given:
            heads, _ = learned.votes(rows.inputs.normalise(x.to(device)))
            for i, head in enumerate(heads):
                if head.shape[1] == len(task.classes):
                    right[i] += int((head.argmax(1).cpu() == y.cpu()).sum())
            labels = torch.cat([labels, y.cpu()])
            if len(labels) >= MOST:
                break
    return right, len(labels) if len(labels.unique()) == len(task.classes) else 0


def router_job(
    learned: Learned, data: Mapping[str, Rows], inputs: Inputs, label_smoothing: float
) -> tuple[Loader, RouteByLabel]:
    """One loader over the data of all tasks, labels numbered through, and what to learn from it.

    A task without a loader comes from its memory; then every class is drawn as often as any other,
    so that few examples count as much as many.
    """
    tasks = learned.current()
    missing = [t.name for t in tasks if t.name not in data and t.memory is None]
    if missing:
        raise DataError(
            f"fit_router needs the data of {missing}: pass their loaders, or learn tasks with "
            'train_task(..., memory=K); Routing(router="none", decision="entropy") needs no data'
        )
    counts = [len(t.classes) for t in tasks]
    parts = [data[t.name] if t.name in data else _kept(t, inputs) for t in tasks]
    balance = None if all(t.name in data for t in tasks) else counts
    return interleaved(parts, _offsets(tasks), balance), _objective(learned, label_smoothing)


def validation_job(learned: Learned, validation: Mapping[str, Rows]) -> tuple[Loader, RouteByLabel]:
    """The same over the validation data there is."""
    tasks = learned.current()
    pairs = zip(tasks, _offsets(tasks), strict=True)
    known = [(validation[task.name], offset) for task, offset in pairs if task.name in validation]
    parts, offsets = zip(*known, strict=True)
    return interleaved(parts, offsets), _objective(learned)


def _objective(learned: Learned, label_smoothing: float = 0.0) -> RouteByLabel:
    labels = learned.labels
    if labels is not None:
        return RouteByName(labels, label_smoothing)
    return RouteByLabel([len(t.classes) for t in learned.current()], label_smoothing)


def _offsets(tasks: Sequence[Task]) -> list[int]:
    """The number of each task's first class, where all classes are numbered through."""
    counts = [len(t.classes) for t in tasks]
    return [sum(counts[:i]) for i in range(len(counts))]


def _kept(task: Task, inputs: Inputs) -> Rows:
    assert task.memory is not None
    return Rows(task.name, batches(task.memory.x, task.memory.y), task.classes, inputs)


def without_moments(learned: Learned, data: Mapping[str, Rows]) -> list[str]:
    """The tasks whose moments neither were kept nor can be summed over their ``data``; nor can those of the
    fewer classes that an earlier revision has."""
    kept = {} if learned.moments is None else learned.moments.sums
    lacking = [task for task in learned.current() if not has_moments(learned, task)]
    return [t.name for t in lacking if t.name not in data or len(kept.get(t.name, ())) > len(t.classes)]


def has_moments(learned: Learned, task: Task) -> bool:
    """Whether moments were kept of just the classes that the task has."""
    kept = {} if learned.moments is None else learned.moments.sums
    return task.name in kept and len(kept[task.name]) == len(task.classes)


def moments_router(
    learned: Learned,
    data: Mapping[str, Rows],
    inputs: Inputs,
    seed: int,
    routing: Routing = Routing("moments"),
    validation: Job | None = None,
) -> Block:
    """The frozen router that follows from the moments that were kept of each task, or else from
    those of its ``data``, which are not kept. Of its random features as many stay as ``routing`` says; with
    ``validation`` they are pruned: as long as it finds the task as often there, less the threshold, ``step``
    of them go."""
    missing = without_moments(learned, data)
    if more := [name for name in missing if name in data]:
        raise DataError(
            f"moments of {more} were kept for more classes than the revision that answers has: let a later "
            "one answer, with answer_with, or fit another router"
        )
    if missing:
        raise DataError(
            f"no moments were kept of {missing}: pass their loaders, learn tasks with "
            f"train_task(..., moments={FEATURES}), or fit another router"
        )
    moments, first = learned.moments, learned.block(learned.tasks[0].owner)
    of = "input" if moments is None else moments.of
    for task in learned.current():
        if not has_moments(learned, task):
            count = FEATURES if moments is None else len(moments.products)
            moments = gather(moments, task.name, data[task.name], count, seed, task.owner, of=of, first=first)
    assert moments is not None, "there is a task"
    names = [task.name for task in learned.current()]
    shrinkage = found_shrinkage(moments, names) if routing.shrinkage == "auto" else routing.shrinkage
    block = router_block(moments, ROUTER, names, inputs, shrinkage, first)
    pruning = routing.router_pruning
    most = len(moments.bias) * min(1.0, (routing.features or math.inf) / len(moments.products))
    while len(moments.bias) > max(most, 1):
        share = min((pruning or PRUNED).step, 1 - most / len(moments.bias))
        moments = without_least(moments, block, share)
        block = router_block(moments, ROUTER, names, inputs, shrinkage, first)
    if pruning is not None and validation is not None:
        target = accuracy(validation, block) - pruning.threshold
        while len(moments.bias) > 1:
            moments = without_least(moments, block, pruning.step)
            smaller = router_block(moments, ROUTER, names, inputs, shrinkage, first)
            if accuracy(validation, smaller) < target:
                break
            block = smaller
    block.freeze()
    return block


def kind_of(
    routing: Routing,
    learned: Learned,
    inputs: Inputs,
    data: Mapping[str, Rows],
    validation: Mapping[str, Rows],
) -> RouterKind:
    """The router that ``routing`` asks for; ``DataError`` where it can't be fitted from this data."""
    if routing.router == "experts" and not validation:
        raise DataError('router "experts" is weighed on validation data: pass some, or fit the router "taps"')
    if routing.router != "auto":
        return routing.router
    gone = any(task.name not in data for task in learned.current())
    suited = inputs.dtype == "float32" and math.prod(inputs.shape) <= WIDEST
    suited = suited or (learned.moments is not None and learned.moments.of != "input")
    return "experts" if gone and suited and validation and not without_moments(learned, data) else "taps"


@torch.no_grad()
def calibrated(
    learned: Learned,
    inputs: Inputs,
    device: torch.device,
    validation: Mapping[str, Rows],
    false_rejections: float,
) -> Learned:
    """``learned`` with temperatures and threshold fitted on raw (x, y) that nothing learned from."""
    votes, truth = list[tuple[Tensor, ...]](), list[tuple[Tensor, Tensor]]()
    for index, task in enumerate(learned.current()):
        for x, y in validation[task.name].batches("validation") if task.name in validation else ():
            heads, router = learned.votes(inputs.normalise(x.to(device)))
            votes.append(tuple(heads) if router is None else (*heads, router))
            truth.append((torch.full_like(y, index), y))
    if not truth or learned.routing is None:
        raise DataError("the loaders in validation have no data")
    task_of, label = (torch.cat(column).cpu() for column in zip(*truth, strict=True))
    columns = [torch.cat(column).cpu() for column in zip(*votes, strict=True)]
    count = len(learned.current())
    heads, router = columns[:count], columns[count] if len(columns) > count else None
    fitted = calibrate(learned.routing, heads, router, task_of, label, false_rejections, learned.labels)
    return learned.with_routing(fitted)


def router_plan(
    learned: Learned, program: Program, kind: RouterKind, routing: Routing, when_full: WhenFull
) -> tuple[BlockPlan, Pruning | None]:
    """The block that is trained for a router of this ``kind``, and how it is pruned; a linear one has
    no neurons of its own."""
    reading = owners_of(None, learned, program)
    if kind == "linear":
        return BlockPlan(program, ROUTER, reading, dict.fromkeys(program.groups, 0)), None
    if routing.width == "trunk":
        own = program.groups
    else:
        program = with_room(Room(learned), program, ROUTER, reading, when_full)
        own = free(learned, program)
    pruning = routing.router_pruning
    if pruning is not None and routing.pruning == "auto":
        widths = {g: sum(program.groups[other] for other in kin) for kin in program.kin for g in kin}
        pruning = replace(pruning, min_width={g: math.ceil(LEAST * n) for g, n in widths.items()})
    return BlockPlan(program if kind == "block" else with_taps(program), ROUTER, reading, own), pruning
