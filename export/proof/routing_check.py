"""Routing: whether a new version still finds the tasks of the old one, on real inputs.

The router is retrained with every task, so inputs of an old task can be sent elsewhere although its
logits are the same to the last bit. What synthetic probes say of that is nothing, so they are not asked.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eideticnet.contract.bundle import Bundle
from eideticnet.export.archive.contents import VALIDATION, validation
from eideticnet.export.archive.labeled_inputs import LabeledInputs, check_indices, known, right
from eideticnet.export.graph.session import session
from eideticnet.export.graph.tail import PINNED, THRESHOLD, X
from eideticnet.export.proof.doubts import distinct, doubts, wilson_interval
from eideticnet.export.proof.version import OpenVersion

Array = npt.NDArray[Any]
ENOUGH = 200
"""Inputs of a task below which its figure is no measurement."""
_BATCH = 256


@dataclass(frozen=True)
class TaskRouting:
    """``kind``: accuracy (task and, where known, label are right) where tasks are known, else the
    share of the rows that the old version routed here and the new one does too. Where labels are shared it is
    the class that counts, whichever task says it. ``interval``: Wilson's
    for ``new``, 95 %. ``distinct``: the rows that differ from each other."""

    name: str
    rows: int
    kind: Literal["accuracy", "agreement"]
    old: float
    new: float
    interval: tuple[float, float]
    distinct: int

    @property
    def drop(self) -> float:
        return self.old - self.new


@dataclass(frozen=True)
class RoutingCheck:
    """``status``: ``kept``, ``dropped`` past ``bound`` for some task, or ``not measured`` for some: too few
    different inputs, or such as even the old version answers no better than chance."""

    status: Literal["kept", "dropped", "not measured"]
    bound: float
    source: str | None = None
    tasks: list[TaskRouting] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def kept_inputs(version: OpenVersion) -> LabeledInputs | None:
    """The real inputs that an archive carries by permission."""
    if VALIDATION not in version.files:
        return None
    real = validation(version.bundle, version.files[VALIDATION])
    return replace(real, source=f"{version.archive.path}: {VALIDATION}")


def check_routing(
    old: OpenVersion, new: OpenVersion, real: LabeledInputs | None, bound: float
) -> RoutingCheck:
    """Route ``real`` by both versions; each of the old one's tasks may lose at most ``bound``."""
    if real is None:
        reason = "no real inputs: none are kept in the archives, and no --routing-data was given"
        return RoutingCheck("not measured", bound, reasons=[reason])
    check_indices(real, new.bundle.tasks)
    was, now = (_route(version, real.x) for version in (old, new))
    answers = [(was, old.bundle), (now, new.bundle)]
    tasks = [_of_task(i, t.name, real, answers) for i, t in enumerate(old.bundle.tasks)]
    doubtful = [doubt.reason for doubt in doubts(real, was["task"], was["label"], old.bundle)]
    few = [t for t in tasks if t.distinct < ENOUGH]
    dropped = [t for t in tasks if t.rows >= ENOUGH and t.drop > bound]
    reasons = [
        f"task {t.name!r}: {t.rows} real inputs"
        + (f" of which {t.distinct} differ" if t.distinct < t.rows else "")
        + f", {ENOUGH} are needed"
        for t in few
    ]
    reasons += doubtful
    reasons += [
        f"task {t.name!r}: {t.kind} of the routing fell from {t.old:.4f} to {t.new:.4f} on {t.rows} "
        f"inputs, by more than {bound}"
        for t in dropped
    ]
    status: Literal["kept", "dropped", "not measured"] = "kept"
    if few or dropped or doubtful:
        status = "dropped" if dropped else "not measured"
    return RoutingCheck(status, bound, real.source, tasks, reasons)


def _route(version: OpenVersion, x: Array) -> dict[str, Array]:
    """``task`` and ``label`` for each row, routed as it is served: "none of mine", -1, under the threshold
    that a server takes where a request names none."""
    run, threshold = session(version.graph), version.bundle.routing.threshold
    parts = [x[i : i + _BATCH] for i in range(0, len(x), _BATCH)]
    found = [
        run({X: part, PINNED: np.full(len(part), -1), THRESHOLD: np.full(len(part), threshold, np.float32)})
        for part in parts
    ]
    return {name: np.concatenate([f[name] for f in found]) for name in ("task", "label")}


def _of_task(
    index: int, name: str, real: LabeledInputs, answers: list[tuple[dict[str, Array], Bundle]]
) -> TaskRouting:
    if real.task is None:
        (was, bundle), (now, _) = answers
        rows, what = was["task"] == index, "task" if not bundle.classes else "label"
        before, kept = int(rows.sum()), int((now[what][rows] == was[what][rows]).sum())
    else:
        rows = known(real, index, answers[0][1])
        before, kept = (int(right(real, a["task"], a["label"], b)[rows].sum()) for a, b in answers)
    count = int(rows.sum())
    kind: Literal["accuracy", "agreement"] = "agreement" if real.task is None else "accuracy"
    shares = (before / count, kept / count) if count else (0.0, 0.0)
    return TaskRouting(name, count, kind, *shares, wilson_interval(kept, count), distinct(real.x[rows]))
