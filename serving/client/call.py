"""One request, over any protocol: what is sent, until when, and what the answer says."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

from eideticnet.client import options
from eideticnet.client.answers import Answer, decode, rows
from eideticnet.client.options import Options, Timed
from eideticnet.client.payload import Payload
from eideticnet.client.tracing import trace_headers
from eideticnet.serving.errors import NoAnswerError, ServingError

SHORTEST_TRY = 5.0
"""Seconds that every try may take, if there are as many: a worker that died is back within."""
_DOTS = re.compile(r"\.+")


class Call:
    """``fields`` are the options as text; ``headers`` carry the request's id and trace; ``authorization`` is
    the key that the last try was sent with, and ``ends`` when that try has to be answered."""

    def __init__(
        self, model: str, version: str, payload: Payload, time: Timed, given: Options, typed: bool = True
    ) -> None:
        self.model, self.version = model, version
        self.path = f"/predictions/{segment('model', model)}"
        if version:
            self.path += f"/{segment('version', version)}"
        self.payload, self.time, self.ends = payload, time, time.ends
        self.fields = {name: options.as_text(value) for name, value in time.values.items()}
        self.headers = trace_headers(options.text(given, "request_id"))
        self.authorization = ""
        self._typed = typed

    def begin(self, last: bool) -> None:
        """A further try begins. Unless it is the ``last`` it may take half of the time that is left: a server
        may lose a request, and answers it when it is asked again."""
        left = self.time.limit()
        self.ends = time.monotonic() + (left if last else min(left, max(left / 2, SHORTEST_TRY)))

    def limit(self) -> float:
        """Seconds that this try may still take."""
        self.time.limit()
        return max(self.ends - time.monotonic(), 0.001)

    def late(self, target: str) -> ServingError:
        """What it means that a try's time is up."""
        left = self.time.left()
        if left <= 0 or self.ends >= self.time.ends:
            return self.time.late()
        return NoAnswerError(f"no answer from {target}, which may have lost the request")

    def result(self, status: int, content: bytes) -> dict[str, Any] | list[Answer]:
        """What ``predict`` returns; ``RequestError`` if the server refused."""
        if not self._typed:
            return decode(status, content)
        return rows(status, content, self.payload.instances)


def segment(what: str, name: str) -> str:
    """The name of a model or version as one part of a path. A front end decodes a path before it looks for
    slashes, so a name that holds one would lead elsewhere."""
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
        raise ServingError(f"{name!r} is no name of a {what}")
    return name.replace(".", "%2E") if _DOTS.fullmatch(name) else quote(name, safe="")
