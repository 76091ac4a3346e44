"""What is remembered of a run while it goes on, so that a report needs no data.

It is kept in ``net.metadata["history"]``: part of the checkpoint, continued when a run is resumed or a
task is added. All accuracies are fractions of 1 on held-out data, means over a task's classes; only a
pruning curve's are those that pruning decides by: training accuracies, of a router on validation data
where every task has some.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from eideticnet.data.rows import Loader, Rows
from eideticnet.errors import CheckpointError
from eideticnet.hashing import json_hash, tensor_hash
from eideticnet.learn.pruning import overdrawn
from eideticnet.learn.training import BUDGET, LAST_PHASE, Event
from eideticnet.learned import ROUTER
from eideticnet.network import EideticNetwork
from eideticnet.route.options import Routing
from eideticnet.runs.evaluation import TaskReport, judged, mean_over_classes
from eideticnet.runs.machine import made_with, where

BINS = 10


class Moment(BaseModel):
    """How the tasks stood after ``learned``, a task or the router, was learned. ``drift``: largest
    |change| of an earlier task's logits since it was learned; infinite where a run that was continued found
    others than it had left."""

    learned: str
    at: str
    made_with: dict[str, str]
    oracle: dict[str, float]
    routed: dict[str, float] = {}
    drift: dict[str, float] = {}


class PruningStep(BaseModel):
    """A size that pruning tried: the neurons left in each feature group, and the accuracy reached."""

    neurons: dict[str, int]
    accuracy: float


class Curve(BaseModel):
    """How one task, or the router, was pruned: ``steps`` in the order of trying, the unpruned block
    first; ``chosen`` is what it kept, ``target`` the least accuracy that the threshold allowed. ``budget``:
    the most neurons that it might keep, where it had more, and ``after`` its accuracy within that."""

    steps: list[PruningStep]
    chosen: dict[str, int]
    target: float
    budget: dict[str, int] = {}
    after: float | None = None

    @property
    def cost(self) -> str:
        """Training accuracy before and after it was pruned to a budget; "" where there was none."""
        return "" if self.after is None else f"{self.steps[0].accuracy:.1%} to {self.after:.1%}"

    @property
    def overdrawn(self) -> str:
        """What speaks against the budget; "" if nothing does."""
        before = self.steps[0].accuracy
        return "" if self.after is None else overdrawn(before, self.after, self.target)


class Bin(BaseModel):
    """Held-out inputs whose routing was about equally confident; ``confidence`` is their mean."""

    count: int
    confidence: float
    right: float


class RoutedAnswers(BaseModel):
    """Where held-out inputs were sent. ``confusion[i][j]`` counts inputs of task i that were answered
    as task j, or as none of them in the last column; ``bins`` of equal width over 0 to 1, in a shared
    label space of the class."""

    tasks: list[str]
    confusion: list[list[int]]
    bins: list[Bin]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean |share right - confidence| over all inputs."""
        total = sum(b.count for b in self.bins)
        return sum(b.count * abs(b.right - b.confidence) for b in self.bins) / max(total, 1)


class Day(BaseModel):
    """A task's logits on its held-out ``inputs``, as SHA-256 of both, on the day that it was learned, or that
    the run was continued on another machine, ``where`` the same numbers may be rounded otherwise."""

    logits: str
    inputs: str
    where: str


class History(BaseModel):
    """All that is remembered; ``held_out`` counts each task's inputs, ``routing`` is the last one.
    ``doubts``: what speaks for more training, by the task or router that ended too early."""

    moments: list[Moment] = []
    pruning: dict[str, Curve] = {}
    doubts: dict[str, str] = {}
    held_out: dict[str, int] = {}
    routing: RoutedAnswers | None = None
    days: dict[str, Day] = {}


def read(net: EideticNetwork) -> History:
    """The network's history, empty if none was kept."""
    try:
        history = History.model_validate(net.metadata.get("history", {}))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise CheckpointError(f"the history in the checkpoint is damaged at {fields}") from None
    revised = {task.name for task in net.tasks if task.revision}  # by hand, which answers a doubt
    doubts = {n: d for n, d in history.doubts.items() if n not in revised}
    return history.model_copy(update={"doubts": doubts})


class Recorder:
    """Continues the history of a network. ``data``: held-out inputs, raw (x, y), of the tasks that are
    to be measured: those whose old data is gone are left out."""

    def __init__(self, net: EideticNetwork, data: Mapping[str, Loader]) -> None:
        self.net, self.data = net, data
        self._events: list[Event] = []
        self._first = {name: _answers(net, rows) for name, rows in self._learned().items()}
        self._days = read(net).days | self._new_days()

    def _new_days(self) -> dict[str, Day]:
        """Of the tasks that were learned elsewhere, from other rows, or before such were kept."""
        known, here = read(self.net).days, where(self.net)
        return {
            name: first.day(here)
            for name, first in self._first.items()
            if name not in known or (known[name].inputs, known[name].where) != (first.inputs, here)
        }

    @property
    def changed(self) -> set[str]:
        """The tasks whose logits are not what they were on the day that they were learned."""
        now = {name: first.day("").logits for name, first in self._first.items()}
        return {name for name, logits in now.items() if logits != self._days[name].logits}

    def event(self, event: Event) -> None:
        """Called after each epoch and each pruning step."""
        if event.phase in ("train", "prune", LAST_PHASE, BUDGET):
            self._events.append(event)

    def task_learned(self, name: str, threshold: float | None) -> None:
        """Measure all tasks, now that ``name`` was learned with this pruning threshold, if any."""
        self._remember(name, threshold, {}, None)

    def router_learned(self, reports: Mapping[str, TaskReport], routing: Routing) -> None:
        """The same for the router that was asked for so, whose accuracies are ``reports``."""
        pruned = routing.router_pruning if self.net.learned.owned().get(ROUTER) else None
        threshold = None if pruned is None else pruned.threshold
        start = self.net.program.groups if routing.width == "trunk" else None
        routed = {name: report.routed for name, report in reports.items()}
        learned = {name: rows.loader for name, rows in self._learned().items()}
        self._remember(ROUTER, threshold, routed, measure_routing(self.net, learned), start)

    def _remember(
        self,
        name: str,
        threshold: float | None,
        routed: dict[str, float],
        routing: RoutedAnswers | None,
        start: dict[str, int] | None = None,
    ) -> None:
        history = read(self.net)
        moment = self._moment(name)
        curves = {**history.pruning, name: self._curve(name, threshold, start)}
        doubts = {**history.doubts, name: "".join(e.doubt for e in self._events)}
        after = History(
            moments=[*history.moments, moment.model_copy(update={"routed": routed})],
            pruning={n: c for n, c in curves.items() if c is not None},
            doubts={n: d for n, d in doubts.items() if d},
            held_out={n: len(first.y) for n, first in self._first.items()},
            routing=routing,
            days=self._days,
        )
        self._events = []
        self.net.metadata = {**self.net.metadata, "history": after.model_dump()}

    def _learned(self) -> dict[str, Rows]:
        return self.net.rows({t.name: self.data[t.name] for t in self.net.tasks if t.name in self.data})

    def _moment(self, name: str) -> Moment:
        oracle, drift = {}, dict.fromkeys(self.changed, torch.inf)
        for task, rows in self._learned().items():
            now, first = _answers(self.net, rows), self._first.get(task)
            oracle[task] = float(mean_over_classes(now.logits.argmax(1) == now.y, now.y))
            if task != name and first is not None and first.inputs == now.inputs:
                drift.setdefault(task, _drift(first.logits, now.logits))
            else:  # learned just now, or on other rows, whose logits can't be compared
                self._first[task], self._days[task] = now, now.day(where(self.net))
        at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return Moment(learned=name, at=at, made_with=made_with(self.net), oracle=oracle, drift=drift)

    def _curve(self, name: str, threshold: float | None, start: dict[str, int] | None) -> Curve | None:
        """None without pruning, or without the events that say where it began; ``start``: with how many
        neurons, all that were free if None."""
        trained = [e.accuracy for e in self._events if e.phase == "train"]
        if not trained or threshold is None:
            return None
        rows, tasks = self.net.capacity(), [t.name for t in self.net.tasks if t.name != name]
        capacity = {group: rows[group] for group in self.net.program.groups}
        free = {group: row["total"] - sum(row.get(t, 0) for t in tasks) for group, row in capacity.items()}
        pruned = [(e.neurons, e.accuracy) for e in self._events if e.phase == "prune"]
        tried = [(start or free, max(trained)), *pruned]
        steps = [PruningStep(neurons=neurons, accuracy=reached) for neurons, reached in tried]
        chosen = {group: row.get(name, 0) for group, row in capacity.items()}
        curve = Curve(steps=steps, chosen=chosen, target=max(trained) - threshold)
        for event in (e for e in self._events if e.phase == BUDGET):
            curve = curve.model_copy(update={"budget": event.neurons, "after": event.accuracy})
        return curve


def _drift(before: Tensor, after: Tensor) -> float:
    """Largest |change|; where no number changed but its bits did, as -0 and 0 differ, the least there is."""
    if tensor_hash(before) == tensor_hash(after):
        return 0.0
    return largest_change(before, after) or torch.finfo(torch.float32).tiny


def largest_change(before: Tensor, after: Tensor) -> float:
    """Largest |difference| of two tensors, exactly 0 only if they are equal; NaN counts as infinite."""
    if torch.equal(before, after):
        return 0.0
    return float((after.double() - before.double()).abs().nan_to_num(nan=torch.inf).max())


@torch.no_grad()
def measure_routing(net: EideticNetwork, data: Mapping[str, Loader]) -> RoutedAnswers:
    """Where the router sends held-out inputs, and how sure it is when it is right."""
    net.eval()
    names = [t.name for t in net.tasks]
    confusion = torch.zeros(len(names), len(names) + 1, dtype=torch.int64)
    sums = torch.zeros(3, BINS, dtype=torch.float64)
    for name, rows in net.rows(data).items():
        index = names.index(name)
        for x, y in rows.batches(name):
            out = net(x.to(net.device))
            confusion[index] += torch.bincount(out.task.cpu() % (len(names) + 1), minlength=len(names) + 1)
            sure, right = judged(net, out, index, y)
            confidence = sure.double()
            place = (confidence * BINS).long().clamp(0, BINS - 1)
            weights = (torch.ones_like(confidence), confidence, right.double())
            sums += torch.stack([torch.bincount(place, w, BINS) for w in weights])
    count = sums[0].clamp(min=1)
    bins = zip(sums[0].tolist(), (sums[1] / count).tolist(), (sums[2] / count).tolist(), strict=True)
    return RoutedAnswers(
        tasks=names,
        confusion=confusion.tolist(),
        bins=[Bin(count=int(n), confidence=c, right=r) for n, c, r in bins],
    )


class _Answers(NamedTuple):
    """One task's logits (N, C) on its held-out data and the labels (N,), on the CPU; the inputs as a hash."""

    logits: Tensor
    y: Tensor
    inputs: str

    def day(self, place: str) -> Day:
        return Day(logits=tensor_hash(self.logits), inputs=self.inputs, where=place)


@torch.no_grad()
def _answers(net: EideticNetwork, rows: Rows) -> _Answers:
    net.eval()
    logits, labels, hashes = list[Tensor](), list[Tensor](), list[str]()
    for x, y in rows.batches(rows.task):
        logits.append(net.task_logits(x.to(net.device), rows.task).cpu())
        labels.append(y.cpu())
        hashes.append(tensor_hash(x))
    return _Answers(torch.cat(logits), torch.cat(labels), json_hash(hashes))
