"""The logits of two versions side by side, for people who want to see what a proof compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eideticnet.export.graph.session import session
from eideticnet.export.proof.retention import Array, both, same_bits, with_heads
from eideticnet.export.proof.version import OpenVersion


@dataclass(frozen=True)
class SideBySide:
    """One task's logits ``before`` and ``after``, (N, classes) float32, the task pinned, and how many of
    the N rows have the ``same`` bits."""

    task: str
    classes: tuple[str, ...]
    before: Array
    after: Array
    same: int


def side_by_side(old: OpenVersion, new: OpenVersion, x: Array | None = None) -> Iterator[SideBySide]:
    """Both run, here and now, on ``x`` (N, *shape), by default each task's own probes: for every task of
    ``old`` that ``new`` has with as many classes."""
    runs = session(old.graph), session(with_heads(new))
    for task in old.bundle.tasks:
        key = (task.name, task.revision)
        found = new.tasks().get(key)
        if found is None or len(found.classes) != len(task.classes):
            continue
        rows = np.ascontiguousarray(old.archive.probes[task.owner] if x is None else x)
        _, before, after = both(old, new, key, runs, rows)
        same = sum(same_bits(before[[row]], after[[row]], old) for row in range(len(rows)))
        yield SideBySide(task.name, task.classes, before, after, same)
