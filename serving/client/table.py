"""Answers as a person reads them, and as a program does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from eideticnet.client.answers import Answer


def answer_table(answers: Sequence[Answer], title: str) -> Table:
    """A row for each instance; columns for what was asked in addition only where it was."""
    table = Table(title=escape(title))
    table.add_column("row", justify="right")
    for heading in ("task", "label"):
        table.add_column(heading)
    for heading in ("p(task)", "p(label)"):
        table.add_column(heading, justify="right")
    extra = [name for name in _MORE if any(getattr(a, name) for a in answers)]
    for name in extra:
        table.add_column(_MORE[name])
    for i, answer in enumerate(answers):
        task = "[dim]unknown[/dim]" if answer.unknown else escape(str(answer.task))
        label = "[dim]-[/dim]" if answer.label is None else escape(answer.label)
        pinned = " [dim](pinned)[/dim]" if answer.pinned else ""
        sure = (_percent(answer.task_probability), _percent(answer.label_probability))
        table.add_row(str(i), task + pinned, label, *sure, *(_listed(answer, name) for name in extra))
    return table


_MORE = {"top": "top", "task_probabilities": "tasks", "label_probabilities": "labels"}


def _listed(answer: Answer, name: str) -> str:
    pairs = (
        [(choice.label, choice.probability) for choice in answer.top]
        if name == "top"
        else list(getattr(answer, name).items())
    )
    return escape(", ".join(f"{key} {_percent(value)}" for key, value in pairs))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def json_line(row: int, answer: Answer) -> str:
    """An answer as one line of JSON; what was not asked for is left out."""
    values: dict[str, Any] = {"row": row, **answer.model_dump()}
    for name in _MORE:
        if not values[name]:
            del values[name]
    return json.dumps(values, ensure_ascii=False)
