"""A transport whose calls end by a moment, however slowly the other side sends or reads.

httpx applies its timeouts to each read and each write alone, so a server that sends a byte now and then
holds a blocking client for as long as it likes. (A coroutine is bounded by ``asyncio.timeout``.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

_PIECE = 64 << 10  # bytes of one write: few enough that the system takes them at once, or in two or three


class BoundedTransport(httpx.HTTPTransport):
    """``with transport.until(moment)``: what this thread sends or reads therein raises httpx's timeout
    once ``time.monotonic()`` is past it. Takes the arguments of its base."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._moment = _Moment()
        self._pool._network_backend = _Backend(self._moment)  # httpx has no argument for it

    @contextmanager
    def until(self, moment: float) -> Iterator[None]:
        self._moment.ends = moment
        try:
            yield
        finally:
            del self._moment.ends


class _Moment(threading.local):
    """When what this thread does has to end; the class's own value by default."""

    ends = float("inf")

    def left(self, error: type[Exception], timeout: float | None) -> float | None:
        """Seconds for the next step, at most ``timeout``; ``error`` if there are none."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise error("time is up")
        return timeout if left == float("inf") else left


class _Backend(httpcore.SyncBackend):
    def __init__(self, moment: _Moment) -> None:
        self._moment = moment

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._moment.left(httpcore.ConnectTimeout, timeout)
        stream = super().connect_tcp(host, port, seconds, local_address, socket_options)
        return _Stream(stream, self._moment)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, moment: _Moment) -> None:
        self._stream, self._moment = stream, moment

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._moment.left(httpcore.ReadTimeout, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            seconds = self._moment.left(httpcore.WriteTimeout, timeout)
            self._stream.write(buffer[start : start + _PIECE], seconds)

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._moment.left(httpcore.ConnectTimeout, timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._moment)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
