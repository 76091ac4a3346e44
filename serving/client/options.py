"""Options of a request: what they are called, and how they travel as fields of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class Options(TypedDict, total=False):
    """What ``predict`` takes beside its input; what is None is not sent.

    ``task`` pins a task by name. ``threshold`` (0 to 1): "unknown" below that confidence.
    ``top_k``: so many labels in ``Answer.top``. ``probabilities``: those of all tasks and classes.
    ``deadline``: seconds from now after which nobody waits any more; retries stay within it, and
    it is sent as a point in time, so the clocks of both machines have to agree.
    ``version`` asks a certain version of the model. ``request_id`` goes into the server's logs.
    ``content_type`` says what bytes or a file are, where that can't be seen.
    """

    task: str | None
    threshold: float | None
    top_k: int | None
    probabilities: bool | None
    deadline: float | None
    version: str
    request_id: str
    content_type: str


FIELDS = ("task", "threshold", "top_k", "probabilities", "deadline_ms")


def encode(values: Mapping[str, str | float | bool | None]) -> dict[str, str]:
    """The fields of ``FIELDS`` that are given, as text that JSON would read the same way."""
    given = {name: values[name] for name in FIELDS if values.get(name) is not None}
    return {name: _text(value) for name, value in given.items()}


def _text(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
