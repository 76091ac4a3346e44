"""A server is kept alive: its engine is started, watched, started again when it dies, and stopped.

What to serve stands in ``state.json``, so starting, recovering, and cleaning up after a deploy that broke
off are the same ``reconcile``.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress

from eideticnet.export.errors import ArchiveError
from eideticnet.serving.deploys.connection import Connection
from eideticnet.serving.deploys.plan import plan
from eideticnet.serving.deploys.reconcile import settle
from eideticnet.serving.deploys.recording import remove_old_rings
from eideticnet.serving.edge.process import Edge
from eideticnet.serving.engine import EngineError, Process
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.addresses import Ports
from eideticnet.serving.home.home import Home, Locked
from eideticnet.serving.processes.groups import reap
from eideticnet.serving.supervise.launch import Launched, ServerOptions, launched, room
from eideticnet.serving.supervise.liveness import Liveness
from eideticnet.serving.supervise.metrics import WorkerMetrics
from eideticnet.serving.supervise.needs import Needs
from eideticnet.serving.supervise.trouble import FORESEEN, Trouble
from eideticnet.serving.supervise.watch import Watch

log = logging.getLogger("serving.supervisor")

_PAUSE_SECONDS = 0.1
_TIDY_SECONDS = 1.0
_FEW_RESTARTS, _SECONDS_FOR_THEM = 5, 120.0
_FIRST_BACKOFF_SECONDS = 0.25
_ANSWER_SECONDS = 5.0
_ON_THE_WAY_SECONDS = 0.5
"""How long a busy front end may take to put a request into the queue that it has just read."""


class Supervisor:
    """A context manager: inside a server answers, and outside nothing is left of it.

    The caller holds ``home.serving()`` and has written the state.
    """

    def __init__(
        self,
        home: Home,
        options: ServerOptions,
        ports: Ports,
        watch: Watch,
        workers: WorkerMetrics,
        edge: Edge | None = None,
    ) -> None:
        self.home, self.options, self.ports, self.watch = home, options, ports, watch
        self._workers, self._edge = workers, edge
        self._launch = ExitStack()
        self._restarts: deque[float] = deque(maxlen=_FEW_RESTARTS)
        self._failed, self._last_words = 0, ""
        self._troubles: defaultdict[str, Trouble] = defaultdict(Trouble)
        self._name = options.engine.name
        self._needs = Needs(home, options.engine, options.network, None if edge else ports)
        self._launched: Launched

    @property
    def process(self) -> Process:
        return self._launched.process

    @property
    def server(self) -> Connection:
        return self._launched.server

    def __enter__(self) -> Supervisor:
        with ExitStack() as stack:
            stack.push(self._launch)
            self._start()
            self.watch.start()
            stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.watch.stop()
        if self._edge:
            self._edge.refuse()
        with self._needs, self._launch:
            if self.process.running:
                self._finish()

    def run(self, over: Callable[[], bool] = lambda: False, beside: Collection[int] = ()) -> None:
        """Watch until it is ``over``; ``ServingError`` once the engine can't be kept alive. What only has to
        come back (the home, room on the disk, an archive) is waited for, and what is loaded kept. The caller
        waits for the processes ``beside``."""
        tidied = time.monotonic()
        while not over():
            reap({self.process.pid, *beside, *([self._edge.pid] if self._edge else [])})
            if self._edge:
                with self._troubles["edge"].noted():
                    self._edge.tend()
            if (lost := self._lost()) and self._provided(lost):
                self._restart(lost)
            if self.process.running and time.monotonic() - tidied > _TIDY_SECONDS:
                self._tidy()
                tidied = time.monotonic()
            time.sleep(_PAUSE_SECONDS)

    def _start(self) -> None:
        self._launched = self._launch.enter_context(launched(self.home, self.options, self.ports, self._edge))
        self._liveness = Liveness(self._name, self.options.silence_seconds, self.options.startup_seconds)
        self.watch.point_at(self.server)

    def _lost(self) -> str:
        """Why the engine is to be started again, in a sentence; "" where it is not."""
        if not self.process.running:
            return f"{self._name} ended"
        with self._troubles["folder"].noted():
            return self._liveness.lost() or self.process.damaged()
        return ""

    def _provided(self, lost: str) -> bool:
        """Whether all is there that a start needs; if not, what is missing is told once, and waited for."""
        try:
            self._needs.check(self.server, running=self.process.running)
        except FORESEEN as error:
            self._wait(f"{lost}, and it can't be started again yet: {error}")
            return False
        return True

    def _wait(self, why: str) -> None:
        self._troubles["start"].tell(why)
        if not self.process.running:
            if self._edge:
                self._edge.wait()
            self.watch.hindered = why
            self.watch.point_at(None)
        time.sleep(_TIDY_SECONDS)

    def _restart(self, lost: str) -> None:
        """Start the engine again, on the same ports: later each time, and not for ever."""
        now = time.monotonic()
        recent = [t for t in self._restarts if now - t < _SECONDS_FOR_THEM]
        if not self._failed:
            self._last_words = f"the end of its log:\n{self.process.last_words()}"
        if self._failed == _FEW_RESTARTS:
            raise ServingError(f"{self._name} could not be started {self._failed} times; {self._last_words}")
        if len(recent) == _FEW_RESTARTS:
            within = f"{_FEW_RESTARTS + 1} times within {_SECONDS_FOR_THEM:.0f} s"
            raise ServingError(f"{self._name} ended {within}; {self._last_words}")
        log.warning("%s: it is started again", lost)
        self.watch.hindered = ""
        if self._edge:
            self._edge.wait()
            if self.process.running:  # past help: who waits for it is held, and not told that it is stopped
                os.kill(self.process.pid, signal.SIGKILL)
        self.watch.point_at(None)
        self._launch.close()
        time.sleep(_FIRST_BACKOFF_SECONDS * 2 ** len(recent) if recent else 0)
        try:
            self._start()
        except (Unavailable, ArchiveError, OSError) as error:  # it went since it was looked for
            self._wait(f"{lost}, and it can't be started again yet: {error}")
            return
        except ServingError as error:
            self._failed, self._last_words = self._failed + 1, f"the last: {error}"
        else:
            self._failed, self._troubles["start"].text = 0, ""
        self._restarts.append(now)
        self.watch.restarts += 1

    def _tidy(self) -> None:
        """Keep the tokens fresh, the files few, and the engine as it should be."""
        with self._troubles["home"].noted():
            self._needs.check_home()
        self.watch.hindered = self._troubles["home"].text
        if self.watch.hindered:
            return
        with self._troubles["tokens"].noted():
            self.process.tend()
        with self._troubles["store"].noted():
            room(self.home)
        with self._troubles["files"].noted():
            remove_old_rings(self.home.rings, self.options.workers)
            self._workers.keep_ended()
        with self._troubles["models"].noted():
            self._mend()

    def _mend(self) -> None:
        """Finish what a deploy left behind, unless one is going on."""
        if not self._differs():
            return
        with suppress(Locked), self.home.changing(0):
            if self._differs():
                try:
                    settle(self.server, self.server.state())
                finally:  # which may have taken long, so what was found before is old
                    self._differs()

    def _differs(self) -> bool:
        try:
            held = self.server.management.models(_ANSWER_SECONDS)
        except EngineError as error:
            if error.silence:
                self._liveness.miss(error.silence)
            else:  # a refusal is an answer
                self._liveness.heard()
            raise
        self._liveness.heard()
        state = self.server.state()
        self._liveness.beat(state, held)
        return bool(plan(state, held, self.options.workers))

    def _finish(self) -> None:
        """Take no new requests, and let what is in flight be answered, as far as the time allows. What is
        left gets a closed connection, and a line says so: the stop that was asked for is no failure."""
        deadline = time.monotonic() + self.options.stop_seconds
        with suppress(*FORESEEN):
            held = self.server.management.models(_ANSWER_SECONDS)
            for name in held:
                try:
                    self.server.management.refuse(name, _ANSWER_SECONDS)
                except ServingError as error:
                    log.warning("%s takes requests until the end: %s", name, error)
                    break
            time.sleep(min(_ON_THE_WAY_SECONDS, self.options.stop_seconds))
            for name, model in held.items():
                for version in model.versions:
                    seconds = max(0.0, deadline - time.monotonic())
                    left = self.server.management.drain(name, version, seconds, _ANSWER_SECONDS)
                    if not left.empty:
                        log.warning("%s %s is stopped at work: %s", name, version, left)
