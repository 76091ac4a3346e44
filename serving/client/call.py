"""One prediction, whatever carries it: what is sent, until when, and what the answer says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.client import options, payload
from serving.client.answers import Answer, decode, rows
from serving.client.options import Options
from serving.client.payload import Input
from serving.client.tracing import trace_headers


class Call:
    """``fields`` are the options as text; ``headers`` carry the request's id and trace;
    ``authorization`` is the key that the last try was sent with."""

    def __init__(self, model: str, x: Input, timeout: float, given: Options) -> None:
        self.model, self.version = model, given.get("version", "")
        self.payload = payload.encode(x, given.get("content_type", ""))
        self.time = options.timed(given, timeout)
        self.fields = {name: options.as_text(value) for name, value in self.time.values.items()}
        self.headers = trace_headers(given.get("request_id", ""))
        self.authorization = ""
        self._typed = not isinstance(x, Mapping)

    def result(self, status: int, content: bytes) -> dict[str, Any] | list[Answer]:
        """What ``predict`` returns; ``RequestError`` if the server refused."""
        body = decode(status, content)
        return rows(body) if self._typed else body
