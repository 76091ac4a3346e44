"""What is told before a model is asked: errors in the form of the model's own, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from eidetic_runtime.answers import encode
from eidetic_runtime.errors import BadRequest
from eidetic_runtime.reply import JSON_HEADERS, Reply

KINDS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "expired",
    413: "too_large",
    415: "unsupported_media_type",
    500: "internal",
    503: "unavailable",
    507: "internal",
}
"""What an error is called, by its HTTP status."""
_MORE: Mapping[int, Mapping[str, str]] = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}

ERROR_SCHEMA: dict[str, Any] = {
    "description": "What is answered before the model is asked.",
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "field", "message"],
            "additionalProperties": False,
            "properties": {
                "kind": {"enum": sorted(set(KINDS.values()))},
                "field": {"type": "string"},
                "message": {"type": "string"},
            },
        }
    },
}


class RefusedError(Exception):
    """A request that reaches no model, and the status, field and message that its sender gets."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(message)
        self.status, self.field, self.message = int(status), field, message
        self.kind = KINDS[self.status]


def told(error: RefusedError | BadRequest) -> Reply:
    """The reply that tells of an error."""
    body = {"kind": error.kind, "field": error.field, "message": error.message}
    return Reply(encode({"error": body}), error.status, {**JSON_HEADERS, **_MORE.get(error.status, {})})


def failed() -> RefusedError:
    """That of a request that no error was foreseen for."""
    message = "the server failed on this request; its log knows why"
    return RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, "request", message)


def no_token() -> RefusedError:
    """That of a request without the token, or with a wrong one."""
    message = "no valid token; expected a header Authorization: Bearer TOKEN"
    return RefusedError(HTTPStatus.UNAUTHORIZED, "authorization", message)


def full(waiting: int) -> RefusedError:
    """That of a request too many."""
    message = f"{waiting} requests are waiting here; ask again"
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "request", message)
