"""From the bytes of an answer to values, or to the error that they tell of."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from eideticnet.client.wire import understood
from eideticnet.contract.answers import Answer, Answers, Choice
from eideticnet.contract.parts import told
from eideticnet.serving.errors import RequestError, failure

__all__ = ["Answer", "Choice", "decode", "rows"]
_READER = TypeAdapter[Answers | Answer](Annotated[Answers | Answer, Field(union_mode="left_to_right")])


def rows(status: int, content: bytes) -> list[Answer]:
    """One answer for each instance of the request; ``RequestError`` as of ``decode``, or where it is none of
    the contract's."""
    if status != 200 or b'"error"' in content:
        decode(status, content)
    try:
        found = _READER.validate_json(content)
    except ValidationError:
        body = decode(status, content)
        raise RequestError(status, {"error": {"message": _wrong(content, body)}}) from None
    return list(found.predictions) if isinstance(found, Answers) else [found]


def _wrong(content: bytes, body: dict[str, Any]) -> str:
    kind: type[Answers | Answer] = Answers if "predictions" in body else Answer
    try:
        return str(kind.model_validate_json(content))
    except ValidationError as error:
        return f"{told(error, kind, body)}; use a client of the server's release"


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
