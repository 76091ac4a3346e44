"""The token that our own clients send, and the one that took its place once it is refused."""

from __future__ import annotations

from collections.abc import Generator

import httpx

from eideticnet.client.key import Key

_WRONG_KEY = "InvalidKeyException"


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


def wrong_key(response: httpx.Response) -> bool:
    """Whether TorchServe answered that it does not know the key."""
    return response.status_code in (400, 401, 403) and _WRONG_KEY in response.text
