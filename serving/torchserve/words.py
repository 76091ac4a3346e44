"""What TorchServe's front end says in words of its own, before a model is asked; and a client's key.

Needs neither gRPC nor TorchServe: every client reads it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx

from eideticnet.serving.errors import too_large
from eideticnet.serving.key import Key

WRONG_KEY = "InvalidKeyException"
"""TorchServe's type of error, answered as a 400."""

ERROR_SCHEMA: dict[str, Any] = {
    "description": "What TorchServe answers before the model is asked; its body may also be empty.",
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}},
}


def understood(status: int, body: object) -> tuple[int, object]:
    """The status and body of an error as HTTP means them."""
    if status == 413 and not body:  # TorchServe says nothing at all
        return status, too_large("too many")
    if isinstance(body, dict) and body.get("type") == WRONG_KEY:
        return 401, body
    return status, body


def worker_died(message: str) -> bool:
    """Whether that is what an error of the front end says."""
    return "worker died" in message.lower()


def wrong_key(response: httpx.Response) -> bool:
    """Whether TorchServe, or what stands in front of it, answered that it does not know the key."""
    return response.status_code == 401 or (response.status_code in (400, 403) and WRONG_KEY in response.text)


class Bearer(httpx.Auth):
    """Sends ``key``. Where it is refused and its file has another by now, the request is sent once more."""

    requires_response_body = True

    def __init__(self, key: Key) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        sent = request.headers["Authorization"] = self._key.header()
        response = yield request
        if wrong_key(response) and self._key.may_change and self._key.changed(sent):
            request.headers["Authorization"] = self._key.header()
            yield request
