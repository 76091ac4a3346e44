"""The requests of a recording, sent to two versions at once: where their answers differ."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eideticnet.contract.answers import Answer
from eideticnet.export.archive.reader import Archive
from eideticnet.serving.deploys.probes import Prober
from eideticnet.serving.deploys.recording import Recording, read
from eideticnet.serving.questions import Question

_AT_ONCE = 8


@dataclass(frozen=True)
class ShadowPolicy:
    """The recording, and which share of its requests (a fraction of 1) may get another task or label."""

    file: Path
    max_changes: float | None = None


@dataclass
class Compared:
    """How many answers of one task (the old version's) differ."""

    requests: int = 0
    task_changed: int = 0
    label_changed: int = 0


@dataclass
class Comparison:
    """``changed`` answers have another task or label; the differences are the largest of the answered
    task's and label's probabilities where those are the same."""

    requests: int = 0
    changed: int = 0
    task_difference: float = 0.0
    label_difference: float = 0.0
    tasks: dict[str, Compared] = field(default_factory=dict)

    def add(self, old: Answer, new: Answer, shared: bool = False) -> None:
        """Count one request's two answers. Where labels are ``shared`` one of another task is another answer
        only if the label is another, too."""
        task = self.tasks.setdefault(str(old.task), Compared())
        another_task, another_label = old.task != new.task, old.label != new.label
        self.requests, task.requests = self.requests + 1, task.requests + 1
        self.changed += another_label or (another_task and not shared)
        task.task_changed += another_task
        task.label_changed += another_label and not another_task
        if another_task:
            return
        moved = _difference(old.task_probability, new.task_probability)
        self.task_difference = max(self.task_difference, moved)
        if not another_label:
            moved = _difference(old.label_probability, new.label_probability)
            self.label_difference = max(self.label_difference, moved)

    def too_many(self, policy: ShadowPolicy) -> bool:
        return policy.max_changes is not None and self.changed > policy.max_changes * self.requests

    def summary(self) -> str:
        return (
            f"{self.changed} of {self.requests} recorded requests get another answer; largest change of a "
            f"probability: {max(self.task_difference, self.label_difference):.3g}"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def shadow(prober: Prober, old: Archive, new: str, policy: ShadowPolicy) -> Comparison:
    """Send the requests in ``policy.file`` to the version of ``old`` and to ``new`` alone."""
    recording = read(policy.file, old.name, old.bundle.input)
    questions = list(_questions(recording, old))

    def both(question: Question) -> tuple[Answer, Answer]:
        first, second = (prober.ask(old.name, version, question) for version in (old.version, new))
        return first, second

    found = Comparison()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for pair in pool.map(both, questions):
            found.add(*pair, shared=bool(old.bundle.classes))
    return found


def _questions(recording: Recording, archive: Archive) -> Iterator[Question]:
    names = [task.name for task in archive.tasks]
    for x, task, threshold in zip(recording.x, recording.task, recording.threshold, strict=True):
        pinned = {"task": names[task]} if 0 <= task < len(names) else {}
        yield Question(x, {"threshold": repr(float(threshold)), **pinned})


def _difference(one: float | None, other: float | None) -> float:
    return 0.0 if one is None or other is None else abs(one - other)
