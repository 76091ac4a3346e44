"""What every request to a replica passes before Ray looks at it.

Ray finds it by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=eideticnet.serving.ray.gate:middlewares``.
"""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware

_CONTROL = {
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"x-session-id",
    b"serve_multiplexed_model_id",
    b"serve-multiplexed-model-id",
}
_ID = b"x-request-id"
_NO_WATCH = (b"x-request-disconnect-disabled", b"?1")


class Gate:
    """Takes away the headers by which a client could steer Ray, and a request's id that Ray could not read.
    Asks Ray not to watch for a client that leaves: the two tasks that this takes for each request cost more
    than the answer, and read a body ahead of any limit."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            kept = [pair for pair in scope["headers"] if pair[0] not in _CONTROL and _readable(pair)]
            kept.append(_NO_WATCH)
            scope["headers"] = kept
        await self._app(scope, receive, send)


def _readable(pair: tuple[bytes, bytes]) -> bool:
    return pair[0] != _ID or pair[1].isascii()


def middlewares() -> list[Middleware]:
    """What Ray asks for."""
    return [Middleware(Gate)]
