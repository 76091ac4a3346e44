"""What is true of a running server just now: asked again and again, in a thread of its own.

Ready means that it is known what is to be served, and that the default version of every model answered a real
prediction a moment ago.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from eideticnet.export.archive.reader import Archive
from eideticnet.serving.deploys.connection import Connection
from eideticnet.serving.deploys.probes import PROBE_SECONDS
from eideticnet.serving.engine import HeldModel
from eideticnet.serving.home.state import Version
from eideticnet.serving.supervise.trouble import FORESEEN, Trouble

log = logging.getLogger("serving.watch")

_PAUSE_SECONDS = 1.0
_SLACK_SECONDS = 1.0


class Watch:
    """Asks the server that it is pointed at, whose engine has that name. Its findings may be read from any
    thread."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.stopping = False
        self.restarts = 0
        self.held: Mapping[str, HeldModel] = {}
        self.hindered = ""
        """Why the server is not ready, whatever its models answer."""
        self._server: Connection | None = None
        self._archives: dict[tuple[str, Version], Archive] = {}
        self._answered: dict[str, float] = {}
        self._judged: frozenset[str] | None = None
        """Models that the last look asked; one that was deployed since has answered its probes by then."""
        self._problems: dict[str, str] = {}
        self._trouble = Trouble(quiet=True)
        self._told: list[str] = []
        self._looking = threading.Lock()  # a server's clients may be closed once it is not pointed at
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def point_at(self, server: Connection | None) -> None:
        """Ask this server from now on; with None, there is none to ask."""
        with self._looking:
            self._server, self._answered, self._judged, self.held = server, {}, None, {}
        self.look()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask nothing any more; the server is not ready from now on."""
        self.stopping = True
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def unready(self) -> list[str]:
        """Why the server is not ready, in sentences; none if it is."""
        server = self._server
        if self.stopping:
            return ["the server is stopping"]
        if self.hindered or server is None:
            return [self.hindered or f"{self.engine} is starting"]
        try:
            models = server.state().models
        except FORESEEN as error:
            return [str(error)]
        answered = self._answered
        # Models are asked one after another: every one that always answers, however late, stays ready.
        oldest = time.monotonic() - _PAUSE_SECONDS - len(models) * PROBE_SECONDS - _SLACK_SECONDS
        return [
            f"model {name}: {self._problems.get(name) or self._trouble.text or 'no prediction yet'}"
            for name in models
            if (self._judged is None or name in self._judged) and answered.get(name, oldest) <= oldest
        ]

    def ready(self) -> bool:
        return not self.unready()

    def look(self) -> None:
        """Ask once: a prediction from each default version, and what the engine holds. Whatever goes wrong,
        a later look may succeed."""
        with self._looking:
            server = self._server
            if server is None:
                return
            with self._trouble.noted():
                self.held = server.management.models(PROBE_SECONDS)
                models = server.state().models
                for name, model in models.items():
                    self._ask(server, name, model.default)
                self._judged = frozenset(models)
            self._tell()

    def _ask(self, server: Connection, name: str, version: Version) -> None:
        try:
            if (name, version) not in self._archives:
                self._archives[name, version] = server.archive(name, version)
            server.prober.check(self._archives[name, version])
        except FORESEEN as error:
            self._problems[name] = str(error)
        else:
            self._answered[name] = time.monotonic()
            self._problems.pop(name, None)

    def _tell(self) -> None:
        """Log what has changed about readiness."""
        reasons = self.unready()
        if reasons != self._told and not self.stopping:
            log.warning("%s", f"not ready: {'; '.join(reasons)}" if reasons else "ready again")
            self._told = reasons

    def _run(self) -> None:
        while not self._end.wait(_PAUSE_SECONDS):
            self.look()
