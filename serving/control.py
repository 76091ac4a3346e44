"""The supervisor's own port: liveness, readiness, metrics, and whatever pages it is given."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from serving.trouble import FORESEEN
from serving.watch import Watch

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("serving.control")

_SECONDS = 10
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks may break off: nobody needs to know."""


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS  # a client that sends nothing is let go
    server_version, sys_version = _NAME, ""

    def log_message(self, format: str, *arguments: object) -> None:
        """Probes come every second: nothing is logged."""


def _router(routes: dict[str, WSGIApplication]) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        page, named = routes.get(environ["PATH_INFO"]), _named(start)
        if page is None:
            return _text(named, "404 Not Found", f"there are {', '.join(routes)}")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(named, "405 Method Not Allowed", "GET is what is allowed")
        try:
            return page(environ, named)
        except FORESEEN as error:
            log.warning("%s: %s", environ["PATH_INFO"], error)
            return _text(named, "503 Service Unavailable", "not known now; the server's log says why")

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


def _text(start: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
