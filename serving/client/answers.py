"""From the bytes of an answer to values, or to the error that they tell of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eideticnet.client.wire import understood
from eideticnet.serving.errors import RequestError, failure


@dataclass(frozen=True)
class Choice:
    """A label and its probability, under the task that was answered."""

    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The answer to one instance. ``task``, ``label`` and ``label_probability`` are None when it
    is ``unknown``; ``task_probability`` is then the router's for its best guess. It is None where
    the task was pinned and the router was not asked."""

    task: str | None
    label: str | None
    unknown: bool
    pinned: bool
    task_probability: float | None
    label_probability: float | None
    model_version: str
    top: tuple[Choice, ...] = ()
    task_probabilities: Mapping[str, float] = field(default_factory=dict)
    label_probabilities: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Answer:
        """From an answer's JSON; keys that a newer server adds are passed over."""
        known = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        top = tuple(Choice(c["label"], c["probability"]) for c in row.get("top") or ())
        return cls(**{**known, "top": top})


def rows(body: Mapping[str, Any]) -> list[Answer]:
    """One answer for each instance of the request."""
    try:
        return [Answer.read(row) for row in body.get("predictions", [body])]
    except (TypeError, KeyError, AttributeError):
        raise RequestError(200, dict(body)) from None


def decode(status: int, content: bytes) -> dict[str, Any]:
    """The JSON object of an answer; ``RequestError`` if it is none, or tells of an error.

    gRPC can't carry the status of a row, so an error object counts as one whatever the status."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = content.decode("utf-8", "replace")
    if status == 200 and isinstance(body, dict) and "error" not in body:
        return body
    raise failure(*understood(status, body))
