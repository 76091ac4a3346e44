"""From the bytes of an answer to values, or to the error that they tell of."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from eideticnet.client.wire import understood
from eideticnet.contract.answers import Answer, Answers, Choice
from eideticnet.contract.parts import told
from eideticnet.serving.errors import RequestError, failure

__all__ = ["Answer", "Choice", "counted", "decode", "rows"]


def rows(status: int, content: bytes, instances: Collection[int] = ()) -> list[Answer]:
    """One answer for each instance of the request; ``RequestError`` as of ``decode``, or where it is none of
    the contract's, or as many as none of ``instances``, which are the numbers that there may be."""
    body = decode(status, content)
    kind: type[Answers | Answer] = Answers if "predictions" in body else Answer
    try:
        found = kind.model_validate(body)
    except ValidationError as error:
        message = f"{told(error, kind, body)}; use a client of the server's release"
        raise RequestError(status, {"error": {"message": message}}) from None
    return counted(status, list(found.predictions) if isinstance(found, Answers) else [found], instances)


def counted(status: int, answers: list[Answer], instances: Collection[int]) -> list[Answer]:
    """``answers``, of which there have to be as many as one of ``instances``, if there are any."""
    if instances and len(answers) not in instances:
        expected = " or ".join(map(str, sorted(set(instances))))
        message = f"it holds {len(answers)} answers; expected {expected}, one for each instance"
        raise RequestError(status, {"error": {"message": message}})
    return answers


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
