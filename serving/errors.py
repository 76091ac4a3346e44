"""What can go wrong while a server is started or asked."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from eidetic_runtime import packed
from eidetic_runtime.errors import STATUS
from eideticnet.errors import EideticError

MOST_BYTES = packed.MOST_BYTES
"""The largest body of a request."""


class ServingError(EideticError):
    """The server can't do what was asked; the message says why and what to do."""


class Unavailable(ServingError):
    """What is needed is not there, and may come back: a file, a folder, room on a disk, a port."""


class ClosedError(ServingError):
    """A client was asked after it was closed."""

    def __init__(self) -> None:
        super().__init__("the client is closed; make another one")


class NoAnswerError(ServingError):
    """The connection was refused or broke, so it is not known whether the request was run."""


def no_answer(place: str, error: Exception | str) -> NoAnswerError:
    """What a refused or broken connection to ``place`` means; the innermost cause of ``error`` tells them
    apart."""
    inner: Any = error
    while inner and not isinstance(inner, ConnectionRefusedError):
        group = getattr(inner, "exceptions", (None,))  # of all addresses that a name has
        inner = getattr(inner, "__cause__", None) or getattr(inner, "__context__", None) or group[0]
    said = str(error) or type(error).__name__
    if inner or "Connection refused" in said:
        said = "nothing listens there; eidetic status shows what runs"
    return NoAnswerError(f"no answer from {place}: {said}")


class RequestError(ServingError):
    """The server answered with an error status. ``body`` is its JSON, or its text.

    ``kind``, ``field`` and ``message`` are those of our error object; of an error of the front end's
    own, ``kind`` is its type and ``field`` is empty.
    """

    def __init__(self, status: int, body: object) -> None:
        self.status, self.body = status, body
        described: dict[str, Any] = body if isinstance(body, dict) else {}
        error = described.get("error", described)
        error = error if isinstance(error, dict) else {"message": error}
        self.kind = str(error.get("kind", error.get("type", "")))
        self.field = str(error.get("field", ""))
        self.message = str(error.get("message", body)) or f"{_phrase(status)}, and nothing more"
        where = f"{self.field}: " if self.field else ""
        super().__init__(f"the server answered {status}: {where}{self.message}")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no status that HTTP knows"


class DeadlineError(RequestError):
    """Time was up: the server said so, or did not answer in time."""

    def __init__(self, body: object = None, *, seconds: float = 0.0) -> None:
        late = (
            f"no answer within {seconds:g} s"
            if seconds > 0
            else f"{seconds:g} s are over before anything is sent"
        )
        super().__init__(408, body or {"error": {"kind": "expired", "field": "deadline_ms", "message": late}})
        if not body:
            self.args = (late,)


class WrongKeyError(RequestError):
    """The server was given no key, or does not know it: there may be new ones each time it starts. The
    status is 401, whatever the front end's own is."""


def failure(status: int, body: object) -> RequestError:
    """The error that ``body`` describes. gRPC can't carry a status: one of 200 is that which the error's kind
    has over HTTP."""
    error = RequestError(status, body)
    if status == 200:
        error = RequestError(STATUS.get(error.kind, 200), body)
    if error.status == 408:
        return DeadlineError(body)
    return WrongKeyError(401, body) if error.status == 401 else error


def too_large(bytes: int | str) -> dict[str, Any]:
    """The error of a request of ``bytes`` bytes."""
    message = f"has {bytes} bytes; expected {MOST_BYTES} at most"
    return {"error": {"kind": "too_large", "field": "body", "message": message}}
