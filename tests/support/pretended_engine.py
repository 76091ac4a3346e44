"""An engine that is a dictionary and a small web server: what serving needs of one, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote

from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.engine import Drained, HeldModel, HeldVersion, Process, Setup, Worker
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.running import Keys
from eideticnet.serving.home.state import CLOSED


class Pretended:
    """Implements ``Engine``, ``Management``, and an HTTP front end that answers each task's first class."""

    name = "Pretended"
    error_schema: ClassVar[dict[str, str]] = {"type": "null"}

    def __init__(self) -> None:
        self.held: dict[str, HeldModel] = {}
        self.home: Any = None
        self.asked: list[tuple[Any, ...]] = []

    def check(self, network: Any) -> list[str]:
        return []

    def check_place(self, root: Any, room: int) -> None:
        """Anywhere will do."""

    @contextmanager
    def start(self, setup: Setup) -> Iterator[Process]:
        self.held, self.home = {}, setup.home
        address = (setup.network.host, setup.ports.inference)
        started = Started(ThreadingHTTPServer(address, self._handler()), setup)
        try:
            yield started
        finally:
            started.end()

    @contextmanager
    def manage(self, home: Any, running: Any) -> Iterator[Pretended]:
        yield self

    def models(self, seconds: float = 0) -> dict[str, HeldModel]:
        return dict(self.held)

    def model(self, name: str, seconds: float = 0) -> HeldModel | None:
        return self.held.get(name)

    def hold(self, name: str, version: Any, profile: str) -> None:
        self._change(name, version.version, HeldVersion(version.file, 1, (Worker(1, True),)))

    def scale(self, name: str, version: str, workers: int) -> None:
        found = self.held[name].versions[version]
        self._change(name, version, replace(found, wanted=workers, workers=(Worker(1, True),) * workers))

    def set_default(self, name: str, version: str) -> None:
        self.asked.append(("set_default", name, version))
        self.held[name] = replace(self.held[name], default=version)

    def refuse(self, name: str, seconds: float = 0) -> None:
        self._change(name, CLOSED, HeldVersion("", 0))
        self.set_default(name, CLOSED)

    def drain(self, name: str, version: str, limit: float, seconds: float = 0) -> Drained:
        self.asked.append(("drain", name, version))
        return Drained(0.0, 0, 0)

    def release(self, name: str, version: str, left: Drained) -> Drained:
        raise AssertionError("nothing was left")

    def forget(self, name: str, version: str) -> None:
        left = {v: held for v, held in self.held[name].versions.items() if v != version}
        assert not left or self.held[name].default != version
        self.held = {n: m for n, m in self.held.items() if n != name}
        if left:
            self.held[name] = HeldModel(CLOSED if CLOSED in left else next(iter(left)), left)

    def _change(self, name: str, version: str, held: HeldVersion) -> None:
        model = self.held.get(name) or HeldModel(version, {})
        self.held[name] = replace(model, versions={**model.versions, version: held})

    def _answer(self, path: str, task: str) -> tuple[int, Any]:
        _, _, name, *version = path.split("/")
        model = self.held[name]
        held = model.versions[version[0] if version else model.default]
        if not held.ready:
            return 503, "no worker"
        archive = read_archive(self.home.store / held.file)
        found = next(t for t in archive.tasks if task in ("", t.name))
        return 200, {
            "task": found.name,
            "label": found.classes[0],
            "unknown": False,
            "pinned": bool(task),
            "task_probability": None if task else 1.0,
            "label_probability": 1.0,
            "model_version": archive.version,
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = engine._answer(self.path, unquote(self.headers.get("eidetic-task", "")))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                """Nobody reads it."""

        return Handler


class Started:
    """Implements ``Process``."""

    def __init__(self, front_end: ThreadingHTTPServer, setup: Setup) -> None:
        self.home, self.folder = setup.home, setup.home.run
        self._front_end = front_end
        self._process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        self.pid = self._process.pid
        threading.Thread(target=front_end.serve_forever, daemon=True).start()

    def end(self) -> None:
        """May be called twice."""
        self._process.kill()
        self._process.wait()
        self._front_end.shutdown()
        self._front_end.server_close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ready(self, running: Any, seconds: float) -> None:
        if not self.running:
            raise ServingError("it ended")
        Keys(inference="a", management="b").write(self.home.keys)

    def tend(self) -> None:
        """Its tokens never end."""

    def damaged(self) -> str:
        return ""

    def last_words(self, seconds: float = 1.0) -> str:
        return ""
