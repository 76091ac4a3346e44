"""What a sender has to change, as an error of its own."""

from __future__ import annotations

import re
from typing import Any

STATUS = {
    "bad_request": 400,
    "expired": 408,
    "too_large": 413,
    "unsupported_media_type": 415,
    "internal": 500,
}
"""HTTP status by kind of error."""


class BadRequest(Exception):
    """The answer to one request that can't be answered. ``reply_to`` is the request's id in the Open
    Inference Protocol, None elsewhere."""

    def __init__(
        self, field: str, message: str, kind: str = "bad_request", reply_to: str | None = None
    ) -> None:
        super().__init__(f"{field}: {message}")
        self.kind, self.field, self.message = kind, printable(field, 100), printable(message, 1000)
        self.reply_to = reply_to

    @property
    def status(self) -> int:
        return STATUS[self.kind]

    def to_json(self) -> dict[str, Any]:
        return {"error": {"kind": self.kind, "field": self.field, "message": self.message}}


_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>", re.I)


def said(error: Exception) -> str:
    """What another library says of a request, without the objects of this process that it names."""
    return _OBJECT.sub("an object", str(error))[:200]


def printable(text: str, longest: int) -> str:
    """What a sender wrote may hold lone surrogates, which no encoder takes back."""
    return text[:longest].encode("utf-8", "replace").decode("utf-8")


def shown(value: Any) -> str:
    """A value as an error message names it."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a string" if isinstance(value, str) else f"{value!r}"[:100]
