"""How well a graph agrees with the network that it came from: what is refused, and what is reported.

An exporter or a runtime may compute an operation otherwise than the network does, in silence. So every
graph is run beside the network before it leaves. What promises no bits also says how far it is off.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from eideticnet import EideticNetwork, Task
from eideticnet.contract.bundle import Bundle
from eideticnet.export.archive.labeled_inputs import LabeledInputs, right
from eideticnet.export.bundle.trial_inputs import trial_inputs
from eideticnet.export.errors import ExportError
from eideticnet.export.graph.session import Array, Run
from eideticnet.export.graph.tail import PINNED, THRESHOLD, X
from eideticnet.export.lowering.body import Body, owners
from eideticnet.export.lowering.precision import Precision, Reduced

TOLERANCE: dict[Precision, float] = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-1, "int8": 5e-1}
"""By how much a logit of a graph may differ from the network's in float32: this, times the row's
largest logit where that is above 1. What float32 itself rounds away in the network is allowed as well."""
PROBES = "the bundle's probes, which are synthetic unless the network keeps real ones"
_BATCH = 256
_BATCHES = (1, 2, 5)
_PASSES = 3
"""Tasks that each row is pinned to, at the most."""


def feed(x: Array, task: Array | None = None) -> dict[str, Array]:
    """The inputs of a graph for raw ``x`` (N, *shape), pinned to ``task`` (N,) or routed."""
    task = np.full(len(x), -1) if task is None else task
    return {X: x, PINNED: task, THRESHOLD: np.zeros(len(x), np.float32)}


@dataclass(frozen=True)
class Reference:
    """A network's answers, eagerly in float32 on the CPU, to inputs that its contract allows.

    ``near`` (N,): those that a smaller type has to compute as well."""

    net: EideticNetwork
    x: Array
    near: Array
    logits: Mapping[str, Array]
    routed: Mapping[str, Array]

    @classmethod
    def of(cls, net: EideticNetwork) -> Reference:
        """``ExportError`` where the network itself can't answer what its contract allows."""
        net = net if net.device.type == "cpu" else copy.deepcopy(net).cpu()
        x, near = trial_inputs(net)
        try:
            return cls(net, x, near, _logits(net, x, Body(net)), eager(net, x))
        except (RuntimeError, IndexError) as error:
            raise ExportError(
                f"the network fails on inputs that its contract allows ({net.inputs}): "
                f"{str(error).strip().splitlines()[0]}; state a range that it can compute"
            ) from error

    def check(self, run: Run, precision: Precision, what: str, tasks: int = 0) -> None:
        """``ExportError`` unless ``run`` answers as the network does at several batch sizes (int8: one row at
        a time), pinned to each of the first ``tasks`` tasks (all if 0), and where it knows all, routed."""
        batch = 1 if precision == "int8" else _BATCH
        answering = self.net.tasks[: tasks or None]
        tried = list[Pinned]()
        for shift in range(min(len(answering), _PASSES)):
            pins = (np.arange(len(self.x)) + shift) % len(answering)
            answers = _run(run, self.x, pins, batch, _BATCHES)
            tried += [Pinned(task, pins == number, answers) for number, task in enumerate(answering)]
        routed = None if tasks else _run(run, self.x, None, batch, _BATCHES)
        rows, tolerance = self.near | (precision == "float32"), TOLERANCE[precision]
        wrong = self._wrong(tried, routed, rows, tolerance, dict.fromkeys(self.logits, 0 * self.near))
        if wrong:  # a sensitive network?
            wrong = self._wrong(tried, routed, rows, tolerance, self._rounding)
        if wrong:
            raise ExportError(
                f"the graph ({what}) does not compute what the network does: {wrong}. An operation of the "
                "trunk is exported as another one: write it differently, or try another --format or --layout"
            )

    def _wrong(
        self,
        tried: Sequence[Pinned],
        routed: Mapping[str, Array] | None,
        rows: Array,
        tolerance: float,
        rounding: Mapping[str, Array],
    ) -> str:
        """What differs in ``rows`` (N,) by more than ``tolerance`` and the ``rounding`` (N,) of each owner's
        logits, in words. Rows that overflow in the network are left out."""
        finite = {owner: rows & np.isfinite(logits).all(1) for owner, logits in self.logits.items()}
        for pinned in tried:
            owner = pinned.task.owner
            mine = finite[owner] & pinned.rows
            expected = self.logits[owner][mine]
            logits, label = pinned.answers["logits"][mine], pinned.answers["label"][mine]
            found = logits[:, : expected.shape[1]], self._own(pinned.task, label)
            allowed = tolerance * _largest(expected) + rounding[owner][mine]
            if wrong := _difference(*found, expected, allowed, "logits", "labels"):
                return f"task {pinned.task.name!r}, {wrong}"
        fitted = self.net.learned.routing
        if routed is None or fitted is None:
            return ""
        rows = np.logical_and.reduce(list(finite.values()))
        # a score is a difference of two logits, and a probability moves by at most half of what scores do
        parts = [tolerance * _largest(v[rows]) + rounding[owner][rows] for owner, v in self.logits.items()]
        allowed = np.maximum.reduce(parts) * 2 / min(1.0, fitted.temperature, *fitted.head_temperatures)
        adds = self.net.classes and fitted.decision == "joint"
        told = [("task_probs", "task", "tasks"), *([("label_probs", "label", "classes")] if adds else [])]
        for probs, choice, what in told:
            # whoever says most of a class is not the likeliest task
            chosen = self.routed[probs][rows].argmax(1) if adds and choice == "task" else routed[choice][rows]
            found = routed[probs][rows], chosen
            wrong = _difference(*found, self.routed[probs][rows], allowed, f"probabilities of {what}", what)
            if wrong:
                return wrong
        return ""

    def _own(self, task: Task, label: Array) -> Array:
        """Which of the task's own classes each ``label`` (N,) is; -1 for none."""
        if (labels := self.net.learned.labels) is None:
            return label
        own = np.full(len(labels.names), -1)
        own[list(labels.places[self.net.tasks.index(task)])] = range(len(task.classes))
        return own[label]

    @cached_property
    def _rounding(self) -> dict[str, Array]:
        """What float32 may round away in each row of every owner's logits, (N,): some times the most that it
        did in rows like it, for two roundings of one row are as far apart as chance will have it."""
        precise = _logits(self.net, self.x, Reduced(Body(self.net), self.net.inputs, torch.float64))
        with np.errstate(invalid="ignore"):
            lost = {owner: np.abs(self.logits[owner] - precise[owner]).max(1) for owner in precise}
        return {
            owner: 8 * np.where(self.near, *(_most(each[rows]) for rows in (self.near, ~self.near)))
            for owner, each in lost.items()
        }


@dataclass(frozen=True)
class Pinned:
    """The answers to all rows of a trial, of which ``rows`` (N,) were pinned to ``task``."""

    task: Task
    rows: Array
    answers: Mapping[str, Array]


def _most(values: Array) -> float:
    return float(values[np.isfinite(values)].max(initial=0.0))


def _difference(
    found: Array, chosen: Array, expected: Array, allowed: Array, values: str, choices: str
) -> str:
    """What to say where ``found`` (N, C) is not as near to ``expected`` as ``allowed`` (N,), or ``chosen``
    (N,) is not its greatest away from ties."""
    difference = np.abs(found - expected)
    bad = ~(difference <= allowed[:, None])  # a NaN never is
    if bad.any():
        row = int(bad.any(1).argmax())
        return (
            f"its {values} differ by {difference[row].max():.2g}, of which {allowed[row]:.2g} may be rounding"
        )
    if ((chosen != expected.argmax(1)) & _clear(expected, allowed)).any():
        return f"it chooses other {choices}"
    return ""


def _largest(logits: Array) -> Array:
    """Of each row, at least 1, (N,)."""
    largest: Array = np.abs(logits).max(1).clip(1.0)
    return largest


def _clear(values: Array, allowed: Array) -> Array:
    """Rows (N,) whose greatest value is the greatest whatever is within the tolerance."""
    best = np.sort(values, 1)[:, -2:]
    clear: Array = best[:, -1] - best[:, 0] > 2 * allowed if best.shape[1] > 1 else np.ones(len(values), bool)
    return clear


def agreement(
    net: EideticNetwork, bundle: Bundle, run: Run, real: LabeledInputs | None, batch: int = _BATCH
) -> dict[str, Any]:
    """Compare the eager network in float32 with its exported graph, on real inputs or else the probes.

    ``same_task`` and ``same_label`` are shares of all rows; a label is the same if the task is too, but where
    labels are shared.
    ``accuracy`` of both (task and, where known, label are right) where the tasks are known. Largest
    differences: of ``task_probs``, and of ``logits`` with each row pinned to the network's own choice."""
    x = np.concatenate([t.probes.numpy() for t in net.tasks]) if real is None else real.x
    expected = eager(net, x)
    routed = _run(run, x, None, batch)
    pinned = _run(run, x, expected["task"], batch)
    same_task = routed["task"] == expected["task"]
    same_label = (routed["label"] == expected["label"]) & (same_task | bool(net.classes))
    report: dict[str, Any] = {
        "inputs": PROBES if real is None else real.source,
        "rows": len(x),
        "batch": batch,
        "same_task": float(same_task.mean()),
        "same_label": float(same_label.mean()),
        "max_difference": {
            "task_probs": float(np.abs(routed["task_probs"] - expected["task_probs"]).max()),
            "logits": float(np.abs(pinned["logits"] - expected["logits"]).max()),
        },
    }
    if real is not None and real.task is not None:
        report["accuracy"] = {
            "network": _right(real, expected, bundle),
            "graph": _right(real, routed, bundle),
        }
    return report


def eager(net: EideticNetwork, x: Array) -> dict[str, Array]:
    """What the network answers to raw ``x`` (N, *shape) with the threshold 0, named as in ``Output``."""
    parts = []
    with torch.no_grad():
        for rows in torch.from_numpy(x).split(_BATCH):
            answer = net(rows.to(net.device), threshold=torch.zeros(len(rows), device=net.device))
            parts.append({name: value.cpu().numpy() for name, value in answer._asdict().items()})
    return _joined(parts)


def _logits(net: EideticNetwork, x: Array, body: torch.nn.Module) -> dict[str, Array]:
    """Every owner's (N, C)."""
    with torch.no_grad():
        logits = body.eval()(torch.from_numpy(x))
    return {owner: value.numpy() for owner, value in zip(owners(net), logits, strict=True)}


def _run(run: Run, x: Array, task: Array | None, batch: int, first: Sequence[int] = ()) -> dict[str, Array]:
    """``batch`` rows at a time, as they are served; batches of the sizes ``first`` come first."""
    parts, start = [], 0
    sizes = iter(first)
    while start < len(x):
        end = start + min(batch, next(sizes, batch))
        parts.append(run(feed(x[start:end], None if task is None else task[start:end])))
        start = end
    return _joined(parts)


def _joined(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _right(real: LabeledInputs, found: dict[str, Array], bundle: Bundle) -> float:
    return float(right(real, found["task"], found["label"], bundle).mean())
