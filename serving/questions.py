"""The probes of an archive as questions to a server, and what a right answer to one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy.typing as npt

from eideticnet.contract.answers import Answer
from eideticnet.export.archive.reader import Archive

SHADOW = {"eidetic-shadow": "1"}
"""The header of the server's own probes, which are neither recorded nor counted."""


@dataclass(frozen=True)
class Question:
    """One instance ``x`` (*shape), and ``options`` of its request by name, as text. It travels as .npy,
    which is a few times smaller than JSON, so every input fits that fits at all."""

    x: npt.NDArray[Any]
    options: Mapping[str, str] = field(default_factory=dict)

    def headers(self, content_type: str) -> dict[str, str]:
        """What says how the body is to be read and answered."""
        asked = {f"eidetic-{name}": quote(text, safe="") for name, text in self.options.items()}
        return {"Content-Type": content_type, **asked}


def questions(archive: Archive) -> Iterator[Question]:
    """A routed probe, and one of every task, pinned to it."""
    yield Question(example(archive))
    for task in archive.tasks:
        yield Question(archive.probes[task.owner][0], {"task": task.name})


def example(archive: Archive) -> npt.NDArray[Any]:
    """An instance (*shape) that the model takes: the first task's first probe."""
    found: npt.NDArray[Any] = archive.probes[archive.tasks[0].owner][0]
    return found


def wrong(archive: Archive, question: Question, answer: Answer) -> str:
    """Why ``answer`` can't be that of the archive's version, in a sentence; "" if it can."""
    classes = {task.name: task.classes for task in archive.tasks}
    found, pinned = answer.task, question.options.get("task")
    if answer.model_version != archive.version:
        return f"version {answer.model_version} answered, not {archive.version}"
    if found is None and answer.unknown and pinned is None:
        return ""
    if found not in classes or answer.label not in classes[found] or pinned not in (None, found):
        return f"{archive.name} {archive.version} gave a wrong answer: {str(answer)[:300]}"
    return ""
