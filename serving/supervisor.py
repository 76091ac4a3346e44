"""A server is kept alive: TorchServe is started, watched, started again when it dies, and stopped.

What to serve stands in ``state.json``, so starting, recovering, and cleaning up after a deploy that broke
off are the same ``reconcile``.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from types import TracebackType

from eideticnet.export.errors import ArchiveError
from eideticnet.serving.connection import Connection
from eideticnet.serving.drain import drain
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.gate import close_gate
from eideticnet.serving.groups import reap
from eideticnet.serving.home import Home, Locked
from eideticnet.serving.launch import Launched, Options, launched, room
from eideticnet.serving.management import ManagementError
from eideticnet.serving.metrics import merge_ended
from eideticnet.serving.needs import Needs
from eideticnet.serving.plan import plan
from eideticnet.serving.process import TorchServe
from eideticnet.serving.pulse import Pulse
from eideticnet.serving.reconcile import settle
from eideticnet.serving.recording import prune
from eideticnet.serving.settings import Ports
from eideticnet.serving.trouble import FORESEEN, Trouble
from eideticnet.serving.watch import Watch

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

    def __init__(self, home: Home, options: Options, ports: Ports, watch: Watch) -> None:
        self.home, self.options, self.ports, self.watch = home, options, ports, watch
        self._launch = ExitStack()
        self._restarts: deque[float] = deque(maxlen=_FEW_RESTARTS)
        self._failed, self._last_words = 0, ""
        self._troubles: defaultdict[str, Trouble] = defaultdict(Trouble)
        self._needs = Needs(home, options.network, ports)
        self._launched: Launched

    @property
    def torchserve(self) -> TorchServe:
        return self._launched.torchserve

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.watch.stop()
        with self._needs, self._launch:
            if self.torchserve.running:
                self._finish()

    def run(self, over: Callable[[], bool] = lambda: False, beside: Collection[int] = ()) -> None:
        """Watch until it is ``over``; ``ServingError`` once TorchServe can't be kept alive. What only has to
        come back (the home, room on the disk, an archive) is waited for, and what is loaded kept. The caller
        waits for the processes ``beside``."""
        tidied = time.monotonic()
        while not over():
            own = {self.torchserve.pid, *beside}
            reap(own)
            if (lost := self._lost()) and self._provided(lost):
                self._restart(lost)
            if self.torchserve.running and time.monotonic() - tidied > _TIDY_SECONDS:
                self._tidy()
                tidied = time.monotonic()
            time.sleep(_PAUSE_SECONDS)

    def _start(self) -> None:
        self._launched = self._launch.enter_context(launched(self.home, self.options, self.ports))
        self._pulse = Pulse(self.options.silence_seconds, self.options.startup_seconds)
        self.watch.point_at(self.server)

    def _lost(self) -> str:
        """Why TorchServe is to be started again, in a sentence; "" where it is not."""
        if not self.torchserve.running:
            return "TorchServe ended"
        with self._troubles["folder"].noted():
            return self._pulse.lost() or self.torchserve.damaged()
        return ""

    def _provided(self, lost: str) -> bool:
        """Whether all is there that a start needs; if not, what is missing is told once, and waited for."""
        try:
            self._needs.check(self.server, running=self.torchserve.running)
        except FORESEEN as error:
            self._wait(f"{lost}, and it can't be started again yet: {error}")
            return False
        return True

    def _wait(self, why: str) -> None:
        self._troubles["start"].tell(why)
        if not self.torchserve.running:
            self.watch.hindered = why
            self.watch.point_at(None)
        time.sleep(_TIDY_SECONDS)

    def _restart(self, lost: str) -> None:
        """Start TorchServe again, on the same ports: later each time, and not for ever."""
        now = time.monotonic()
        recent = [t for t in self._restarts if now - t < _SECONDS_FOR_THEM]
        if not self._failed:
            self._last_words = f"the end of its log:\n{self.torchserve.last_words()}"
        if self._failed == _FEW_RESTARTS:
            raise ServingError(f"TorchServe could not be started {self._failed} times; {self._last_words}")
        if len(recent) == _FEW_RESTARTS:
            within = f"{_FEW_RESTARTS + 1} times within {_SECONDS_FOR_THEM:.0f} s"
            raise ServingError(f"TorchServe ended {within}; {self._last_words}")
        log.warning("%s: it is started again", lost)
        self.watch.hindered = ""
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
        """Keep the tokens fresh, the files few, and TorchServe as it should be."""
        with self._troubles["home"].noted():
            self._needs.check_home()
        self.watch.hindered = self._troubles["home"].text
        if self.watch.hindered:
            return
        with self._troubles["tokens"].noted():
            self._launched.tokens.tend(self.server.management)
        with self._troubles["store"].noted():
            room(self.home)
        with self._troubles["files"].noted():
            prune(self.home.records, self.options.workers)
            merge_ended(self.home.metrics)
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
        except ManagementError as error:
            if error.status and not error.wrong_key:  # a refusal is an answer
                self._pulse.heard()
            else:
                self._pulse.miss(wrong_key=error.wrong_key)
            raise
        self._pulse.heard()
        state = self.server.state()
        self._pulse.beat(state, held)
        return bool(plan(state, held, self.options.workers))

    def _finish(self) -> None:
        """Take no new requests, and let what is in flight be answered, as far as the time allows. What is
        left gets a closed connection, and a line says so: the stop that was asked for is no failure."""
        deadline = time.monotonic() + self.options.stop_seconds
        with suppress(*FORESEEN):
            held = self.server.management.models(_ANSWER_SECONDS)
            for name in held:
                try:
                    close_gate(self.server, name, _ANSWER_SECONDS)
                except ServingError as error:
                    log.warning("%s takes requests until the end: %s", name, error)
                    break
            time.sleep(min(_ON_THE_WAY_SECONDS, self.options.stop_seconds))
            for name, model in held.items():
                for version in model.versions:
                    seconds = max(0.0, deadline - time.monotonic())
                    left = drain(self.server.management, name, version, seconds, _ANSWER_SECONDS)
                    if not left.empty:
                        log.warning("%s %s is stopped at work: %s", name, version, left)
