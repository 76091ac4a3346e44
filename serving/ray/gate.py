"""What every request to a replica passes before Ray looks at it, and where its ports can be reached.

Ray finds it by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=eideticnet.serving.ray.gate:middlewares``, before
it listens.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from starlette.middleware import Middleware

from eideticnet.serving.ray.settings import HERE

_LOOPBACK = "127.0.0.1"
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
    if HERE in os.environ:
        _listen_here()
    return [Middleware(Gate)]


def _listen_here() -> None:
    """Let Serve's gRPC servers in this process, which would listen at every address, do so on this machine
    alone; and at ports that nobody has, where gRPC would share those of another server."""
    from ray.serve._private import default_impl, replica

    for module, name in ((default_impl, "add_grpc_address"), (replica, "add_port_to_grpc_server")):
        assert hasattr(module, name)  # as of another Ray
        setattr(module, name, _on_loopback)


def _on_loopback(server: Any, address: str) -> int:
    """The port at which ``server`` listens. ``RuntimeError``, as Ray expects it, where that is taken."""
    here = _LOOPBACK, int(address.rpartition(":")[2])
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(here)
            trial.listen()
    except OSError as error:
        raise RuntimeError(f"port {here[1]} can't be listened at: {error}") from error
    port: int = server.add_insecure_port(f"{here[0]}:{here[1]}")
    return port
