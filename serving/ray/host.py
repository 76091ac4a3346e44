"""The process that drives Ray for a supervisor: it starts one here or joins a cluster, runs the application,
and takes orders at the management port until it is told to end.

``python -m eideticnet.serving.ray.host SETTINGS``; what it starts carries its mark.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import serve

from eideticnet.errors import EideticError
from eideticnet.serving.processes.folder import MARK, end_marked
from eideticnet.serving.ray import memory
from eideticnet.serving.ray.application import Application
from eideticnet.serving.ray.grpc import GRPC_SERVICERS
from eideticnet.serving.ray.settings import APPLICATION, STORE_BYTES, Settings

log = logging.getLogger("eidetic.host")

_MOST_BYTES = 1 << 20
_SECONDS = 10


@contextmanager
def cluster(settings: Settings) -> Iterator[None]:
    """A Ray, and Serve on it: one of this machine, or that at ``settings.address``."""
    own = not settings.address
    kwargs: dict[str, Any] = {"address": settings.address}
    if own:
        kwargs = {
            "num_cpus": settings.most,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": settings.folder,
        }
    try:
        ray.init(**kwargs, log_to_driver=False, namespace=APPLICATION)
    except Exception as error:  # of many kinds
        where = f"no Ray answers at {settings.address}" if settings.address else "Ray does not start here"
        raise SystemExit(f"{where}: {str(error).strip().splitlines()[0]}") from None
    try:
        options = {"host": settings.host, "port": settings.inference}
        grpc = {"port": settings.grpc_inference, "grpc_servicer_functions": GRPC_SERVICERS}
        try:
            serve.start(proxy_location="EveryNode", http_options=options, grpc_options=grpc)
        except ray.exceptions.RayActorError as error:  # a proxy, which Serve starts again
            log.warning("%s", str(error).partition("\n")[0])
        yield
    finally:
        if own and MARK in os.environ:  # first, whatever Ray's shutdown meets when its files are gone
            end_marked(Path(os.environ[MARK]))
        if not own:
            serve.delete(APPLICATION, _blocking=False)  # its replicas drain for half a minute
            memory.forget(APPLICATION)
        ray.shutdown()


class Orders(ThreadingHTTPServer):
    """Takes orders for ``application`` from who knows ``key``."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], application: Application, key: str) -> None:
        super().__init__(address, _Handler)
        self.key = f"Bearer {key}".encode()
        self.orders: Mapping[str, Callable[..., Any]] = {
            "models": lambda seconds: {n: asdict(m) for n, m in application.models(seconds).items()},
            "hold": application.hold,
            "scale": application.scale,
            "set_default": application.set_default,
            "forget": application.forget,
        }

    @contextmanager
    def taken(self) -> Iterator[None]:
        """They are, in threads of their own."""
        thread = threading.Thread(target=self.serve_forever, name="orders", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """POST /ORDER with its arguments as a JSON object."""

    server: Orders
    timeout = _SECONDS
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "eidetic", ""
    error_content_type: ClassVar[str] = "text/plain"  # type: ignore[misc]

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self.close_connection = True
            return self._say(400, {"error": "an order is a JSON object of known length"})
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.key):
            self.close_connection = True  # and the body is not read
            return self._say(401, {"error": "the key is wrong"})
        body, order = self.rfile.read(int(length)), self.server.orders.get(self.path.removeprefix("/"))
        if order is None:
            return self._say(404, {"error": f"there is no order {self.path}"})
        try:
            found = order(**json.loads(body))
        except EideticError as error:
            return self._say(409, {"error": str(error)})
        except Exception as error:
            log.exception("%s failed", self.path)
            return self._say(500, {"error": f"{type(error).__name__}: {error}"[:500]})
        return self._say(200, found)

    def _say(self, status: int, found: Any) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Orders are not logged."""


def main(file: Path) -> None:
    """Drive Ray as ``file`` says until SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s [%(levelname)s] %(name)s - %(message)s")
    settings = Settings.read(file)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with cluster(settings):
        application = Application(settings)
        application.begin()
        address = settings.management_host, settings.management
        with Orders(address, application, settings.keys.management).taken():
            signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
