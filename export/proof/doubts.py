"""Whether real inputs can be what their file says: a version that answers no better than chance on them
proves nothing about the next one, and one that answers worse than chance shows that they are mixed up.

Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from statistics import NormalDist

import numpy as np

from eideticnet.contract.bundle import Bundle
from eideticnet.export.archive.labeled_inputs import Array, LabeledInputs, known, numbered

_NORMAL_95 = NormalDist().inv_cdf(0.975)
_OTHERS = 30
"""Rows of other tasks from which on it is known how many of them a task attracts."""


@dataclass(frozen=True)
class Doubt:
    """About the rows of one task, a place in the list. ``certain``: no version would answer them so badly."""

    task: int
    reason: str
    certain: bool


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """Wilson's score interval, 95 %, of a share; all of it for no rows."""
    if not rows:
        return 0.0, 1.0
    share, weight = right / rows, _NORMAL_95**2 / rows
    middle = share + weight / 2
    reach = math.sqrt(weight * (share * (1 - share) + weight / 4))
    return max((middle - reach) / (1 + weight), 0.0), min((middle + reach) / (1 + weight), 1.0)


def distinct(x: Array) -> int:
    """How many rows of ``x`` (N, ...) there are, each counted once."""
    return len({sha256(row.tobytes()).digest() for row in x})


def doubts(real: LabeledInputs, task: Array, label: Array, bundle: Bundle) -> Iterator[Doubt]:
    """What is doubtful about ``real``, to which the version of ``bundle`` answered ``task`` and ``label``
    (N,), -1 where it answered none. Nothing where it does not say which tasks its rows are of.

    Where labels are shared a task is found where a class of it is answered."""
    if real.task is None:
        return
    tasks = bundle.tasks
    for index, described in enumerate(tasks):
        rows, others = known(real, index, bundle), np.isin(real.task, _strangers(bundle, index))
        mine = task == index if not bundle.classes else np.isin(label, bundle.numbers(index))
        found = rows & mine
        count, right = int(rows.sum()), int(found.sum())
        if not count:
            continue
        where = f"{real.source}: of the {count} rows of task {described.name!r} (number {index})"
        choices = (1, len(tasks), "tasks")
        if bundle.classes:
            choices = len(described.classes), len(bundle.classes), "classes"
        chance, why = choices[0] / choices[1], "no more than by guessing among {1} {2}".format(*choices)
        attracted = float(mine[others].mean()) if others.sum() >= _OTHERS else 0.0
        if attracted > chance:
            chance, why = attracted, f"and {attracted:.0%} of the rows of other tasks are"
        if choices[0] < choices[1] and (doubt := _at_chance(right, count, chance)) is not None:
            what = f"{where} {right} are found to be of it, {why}"
            yield Doubt(index, f"{what}: are tasks swapped, or inputs not in raw units?", doubt)
        elif real.label is not None and right:
            given, said = numbered(real.label[found], index, bundle), label[found]
            same, classes = int((given == said).sum()), len(bundle.classes or described.classes)
            chance = _agreement_by_chance(given, said, classes)
            if classes > 1 and (doubt := _at_chance(same, right, chance)) is not None:
                what = f"{where} {right} are found, and {same} of these have the label answered"
                why = f"no more than by guessing ({chance:.0%})"
                yield Doubt(index, f"{what}, {why}: are labels shifted?", doubt)


def _strangers(bundle: Bundle, index: int) -> list[int]:
    """The other tasks, or those that share no class with the one of this index."""
    tasks = bundle.tasks
    mine = set() if not bundle.classes else set(tasks[index].classes)
    return [i for i, task in enumerate(tasks) if i != index and mine.isdisjoint(task.classes)]


def _at_chance(right: int, rows: int, chance: float) -> bool | None:
    """None if the share is clearly above ``chance``; else whether it is clearly below."""
    low, high = wilson_interval(right, rows)
    return None if low > chance else high < chance


def _agreement_by_chance(given: Array, said: Array, classes: int) -> float:
    """The share of rows that agree if answers had nothing to do with labels; as they have, where all rows
    are of one class, that can't be told from the answers."""
    shares = [np.bincount(each, minlength=classes) / len(each) for each in (given, said)]
    return 1 / classes if shares[0].max() == 1 else float(shares[0] @ shares[1])
