"""What a router is fitted from: the tasks' data or memory, their moments, validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eideticnet.block import Block
from eideticnet.calibration import calibrate
from eideticnet.data import Loader, batches, check_labels, pooled, seeded_pass
from eideticnet.errors import DataError
from eideticnet.inputs import Inputs
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.learning import Plan, WhenFull, free, with_room
from eideticnet.moments import router_block
from eideticnet.program import Program
from eideticnet.pruning import Pruning
from eideticnet.reading import resolve
from eideticnet.routing import RouteByLabel, Routing
from eideticnet.rules import with_taps


def router_lesson(
    tasks: Sequence[Task], loaders: Mapping[str, Loader], label_smoothing: float
) -> tuple[Loader, RouteByLabel]:
    """One loader over the data of all tasks, labels numbered through, and what to learn from it.

    A task without a loader comes from its memory; then every class is drawn as often as any other,
    so that few examples count as much as many.
    """
    missing = [t.name for t in tasks if t.name not in loaders and t.memory is None]
    if missing:
        raise DataError(
            f"fit_router needs the data of {missing}: pass their loaders, or learn tasks with "
            'train_task(..., memory=K); Routing(router="none", decision="entropy") needs no data'
        )
    counts = [len(t.classes) for t in tasks]
    offsets = [sum(counts[:i]) for i in range(len(counts))]
    parts = [loaders[t.name] if t.name in loaders else _kept(t) for t in tasks]
    balance = None if all(t.name in loaders for t in tasks) else counts
    return pooled(parts, offsets, balance), RouteByLabel(counts, label_smoothing)


def _kept(task: Task) -> Loader:
    assert task.memory is not None
    return batches(task.memory.x, task.memory.y)


def moments_router(learned: Learned, inputs: Inputs) -> Block:
    """The frozen router that follows from the moments that were kept of every task."""
    known = {} if learned.moments is None else learned.moments.sums
    missing = [task.name for task in learned.current() if task.name not in known]
    if learned.moments is None or missing:
        raise DataError(
            f"no moments were kept of {missing}: learn tasks with train_task(..., moments=1024), or "
            "fit another router"
        )
    block = router_block(learned.moments, ROUTER, [task.name for task in learned.current()], inputs)
    block.freeze()
    return block


@torch.no_grad()
def calibrated(
    learned: Learned,
    inputs: Inputs,
    device: torch.device,
    validation: Mapping[str, Loader],
    false_rejections: float,
) -> Learned:
    """``learned`` with temperatures and threshold fitted on raw (x, y) that nothing learned from."""
    votes, truth = list[tuple[Tensor, ...]](), list[tuple[Tensor, Tensor]]()
    for index, task in enumerate(learned.current()):
        for x, y in seeded_pass(validation[task.name], "validation") if task.name in validation else ():
            inputs.check(x)
            check_labels(y, len(task.classes), task.name)
            heads, router = learned.votes(inputs.normalise(x.to(device)))
            votes.append(tuple(heads) if router is None else (*heads, router))
            truth.append((torch.full_like(y, index), y))
    if not truth or learned.routing is None:
        raise DataError("the loaders in validation have no data")
    task_of, label = (torch.cat(column).cpu() for column in zip(*truth, strict=True))
    columns = [torch.cat(column).cpu() for column in zip(*votes, strict=True)]
    count = len(learned.current())
    heads, router = columns[:count], columns[count] if len(columns) > count else None
    return learned.with_routing(calibrate(learned.routing, heads, router, task_of, label, false_rejections))


def router_plan(
    learned: Learned, program: Program, routing: Routing, when_full: WhenFull
) -> tuple[Plan, Pruning | None]:
    """The block that the router gets, and how it is pruned; a linear one has no neurons of its own."""
    reading = resolve(None, learned, program)
    if routing.router == "linear":
        return Plan(program, ROUTER, reading, dict.fromkeys(program.groups, 0)), None
    program = with_room(learned, program, ROUTER, reading, when_full)
    own = free(learned, program)
    return Plan(
        with_taps(program) if routing.router == "taps" else program, ROUTER, reading, own
    ), routing.pruning
