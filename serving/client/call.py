"""One prediction, whatever carries it: what is sent, until when, and what the answer says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from serving.client import options, payload
from serving.client.answers import Answer, decode, rows
from serving.client.options import Options
from serving.client.payload import Input
from serving.client.tracing import trace_headers
from serving.errors import DeadlineError


class Call:
    """``fields`` are the options as text; ``headers`` carry the request's id and trace."""

    def __init__(self, model: str, x: Input, timeout: float, given: Options) -> None:
        self.model, self.version = model, given.get("version", "")
        self.payload = payload.encode(x, given.get("content_type", ""))
        deadline = given.get("deadline")
        self.seconds = timeout if deadline is None else deadline
        self._ends = time.monotonic() + self.seconds
        unix_ms = None if deadline is None else int((time.time() + deadline) * 1000)
        self.fields = options.encode({**given, "deadline_ms": unix_ms})  # type: ignore[dict-item]
        self.headers = trace_headers(given.get("request_id", ""))
        self._typed = not isinstance(x, Mapping)

    def seconds_left(self) -> float:
        return self._ends - time.monotonic()

    def limit(self) -> float:
        """Seconds that one try may take; ``DeadlineError`` if there are none left."""
        left = self.seconds_left()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> DeadlineError:
        return DeadlineError(seconds=self.seconds)

    def result(self, status: int, content: bytes) -> dict[str, Any] | list[Answer]:
        """What ``predict`` returns; ``RequestError`` if the server refused."""
        body = decode(status, content)
        return rows(body) if self._typed else body
