"""The standard health service of gRPC, ``grpc.health.v1.Health``, which asks for no key and tells no name."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""HealthCheckResponse, as protobuf has it."""
_AT_ONCE = 8


class Health:
    """Answers on the socket ``path`` what ``healthy`` says. HAProxy can't: it writes no trailers itself."""

    def __init__(self, path: Path, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._server = grpc.server(
            ThreadPoolExecutor(2, "health"),
            maximum_concurrent_rpcs=_AT_ONCE,
            options=[("grpc.so_reuseport", 0)],
        )
        check = grpc.unary_unary_rpc_method_handler(self._check)
        handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{path}")

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None)

    def _check(self, request: bytes, context: Any) -> bytes:
        if request:  # the name of a service; "" is the server
            context.abort(grpc.StatusCode.NOT_FOUND, 'this server tells of its health as a whole: service ""')
        return _SERVING if self._healthy() else _NOT_SERVING
