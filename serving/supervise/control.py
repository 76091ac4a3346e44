"""The supervisor's own port: liveness, readiness, metrics, and the pages that it is given."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from eideticnet.serving.supervise.trouble import FORESEEN
from eideticnet.serving.supervise.watch import Watch

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("serving.control")

_SECONDS, _MOST = 10, 64
"""How long a connection may take, and how many there may be at a time."""
_NAME = "eidetic"
"""The ``Server`` header, which otherwise tells the versions of Python and its web server."""


class Control:
    """A web server with GET /live, /ready, /metrics and what else ``pages`` has, in threads of its own."""

    def __init__(
        self,
        host: str,
        port: int,
        watch: Watch,
        metrics: CollectorRegistry,
        pages: dict[str, WSGIApplication],
    ) -> None:
        routes = {"/live": _live, "/ready": _ready(watch), "/metrics": make_wsgi_app(metrics), **pages}
        self._server = make_server(host, port, _router(routes), _Server, _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="control", daemon=True)

    def __enter__(self) -> Control:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    """Bounded, since the port needs no key: connections that are never closed would take all
    descriptors of the supervisor, which then could not watch the engine any more."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._since: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        while len(self._since) >= _MOST:  # the oldest makes room
            self._let_go(next(iter(self._since)))
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second: let go of who sends or reads too slowly."""
        for request, since in list(self._since.items()):
            if time.monotonic() - since > _SECONDS:
                self._let_go(request)

    def _let_go(self, request: socket.socket) -> None:
        """Its thread finds that it is closed."""
        self._since.pop(request, None)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may break off, which is no event worth a log line."""


class _Handler(WSGIRequestHandler):
    server_version, sys_version = _NAME, ""

    def log_message(self, format: str, *arguments: object) -> None:
        """Probes come every second: nothing is logged."""


def _router(routes: dict[str, WSGIApplication]) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "HEAD":
            return answer(environ, _named(start))
        answer({**environ, "REQUEST_METHOD": "GET"}, _named(start))
        return ()

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        page = routes.get(environ["PATH_INFO"])
        if page is None:
            return _text(start, "404 Not Found", f"there are {', '.join(routes)}")
        if environ["REQUEST_METHOD"] != "GET":
            allowed = ("Allow", "GET, HEAD")
            return _text(start, "405 Method Not Allowed", "GET is what is allowed", allowed)
        try:
            return page(environ, start)
        except FORESEEN as error:
            log.warning("%s: %s", environ["PATH_INFO"], error)
            return _text(start, "503 Service Unavailable", "not known now; the server's log says why")

    return application


def _named(start: StartResponse) -> StartResponse:
    def begin(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
        return start(status, [*headers, ("Server", _NAME)], *error)

    return begin


def _live(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    return _text(start, "200 OK", "live")


def _ready(watch: Watch) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    def page(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        reasons = watch.unready()
        return _text(start, "503 Service Unavailable" if reasons else "200 OK", "\n".join(reasons) or "ready")

    return page


def _text(start: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    length = ("Content-Length", str(len(body)))
    start(status, [("Content-Type", "text/plain; charset=utf-8"), length, *headers])
    return [body]
