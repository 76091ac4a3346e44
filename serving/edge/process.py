"""The HAProxy process: started, watched, started again, and told where the engine is."""

from __future__ import annotations

import logging
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from eideticnet.serving.edge import answers
from eideticnet.serving.edge.backends import TRY_SECONDS, addresses
from eideticnet.serving.edge.configuration import configuration
from eideticnet.serving.edge.health import Health
from eideticnet.serving.edge.keys import EdgeKeys
from eideticnet.serving.edge.options import EdgeOptions
from eideticnet.serving.edge.parts import (
    ANEW,
    CLI,
    ENGINE,
    FORMER,
    HEALTH,
    HOLD,
    HOLDS,
    INFERENCE,
    MANAGEMENT,
    PATIENT,
    PEM,
    PROMPT,
    WAIT,
    Situation,
)
from eideticnet.serving.edge.runtime import Runtime
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home import certificate
from eideticnet.serving.home.addresses import Network, Ports
from eideticnet.serving.home.files import write_whole
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Keys, trust
from eideticnet.serving.processes.child import Child
from eideticnet.serving.processes.folder import PrivateFolder

log = logging.getLogger("serving.edge")

_PAUSE_SECONDS, _START_SECONDS, _TEND_SECONDS = 0.05, 20.0, 1.0
_FINISH_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 5.0


class Edge:
    """HAProxy on the public ``ports``. A context manager: inside it runs, and requests wait in it until it is
    told where an engine is. ``keys`` is the file that clients read, ``healthy`` says whether all is well, and
    a HAProxy that is silent for ``silence`` seconds is started again."""

    def __init__(
        self,
        home: Home,
        options: EdgeOptions,
        network: Network,
        ports: Ports,
        keys: Path,
        healthy: Callable[[], bool],
        silence: float,
    ) -> None:
        self.options, self.network, self.ports, self.keys = options, network, ports, keys
        self.restarts = 0
        self.trusted = trust(str(network.certificate) if network.certificate else None)
        self._home, self._silence = home, silence
        self._held = EdgeKeys()
        self._engine: Ports | None = None
        self._child: Child | None = None
        self._pem = ""
        self._next = self._backoff = 0.0
        self._heard = self._tended = time.monotonic()
        self._folder = PrivateFolder(home.run, "HAProxy", HEALTH)
        self._health = Health(self._folder.path / HEALTH, healthy)
        self.runtime = Runtime(self._folder.path / CLI)

    @property
    def engine_keys(self) -> tuple[Path, Path]:
        """Where the engine writes its own, which nobody else reads."""
        return self._folder.path / "keys.json", self._folder.path / "authorization.txt"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def __enter__(self) -> Self:
        try:
            self._health.start()
            self._held.public.keep(self.keys, self._home.header)
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def wait(self) -> None:
        """No engine takes requests: hold them."""
        self._engine = None
        with suppress(Unavailable):  # what is started again finds it in its configuration
            self.runtime.ready(HOLDS, WAIT, (ANEW,))
            self.runtime.ready(PATIENT, HOLD, (ENGINE,))

    def pass_to(self, engine: Ports, keys: Keys) -> None:
        """The engine is there, and takes these keys. Requests that were held go there another way."""
        self._held.taken(keys)
        self._engine = engine
        with suppress(Unavailable):
            for name, entries in self._held.maps().items():
                self.runtime.replace_map(f"{name}.map", entries)
            self.runtime.move(addresses(engine))
            self.runtime.ready(("anew_http", "anew_grpc", *PROMPT), ENGINE)
            self.runtime.ready(HOLDS, ANEW, (WAIT,))
            self.runtime.ready(PATIENT, ENGINE)
            time.sleep(3 * TRY_SECONDS)  # until all that were held have tried
            self.runtime.ready(HOLDS, WAIT, (ANEW,))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let requests wait while the engine changes its keys."""
        engine = self._engine
        self.wait()
        try:
            yield
        finally:
            if engine is not None:
                self.pass_to(engine, Keys.read(self.engine_keys[0]))

    def refuse(self) -> None:
        """Answer what comes from now on, and what waits, with a 503."""
        self._engine = None
        with suppress(Unavailable):
            self.runtime.ready(PATIENT, "", (ENGINE, HOLD))
            self.runtime.ready(HOLDS, "", (WAIT, ANEW))

    def tend(self) -> None:
        """Start HAProxy again where it has ended or is silent, later each time; see that clients find their
        keys, and that a new certificate is used. ``ServingError`` says what can't be done now."""
        now = time.monotonic()
        if not self.running:
            if now >= self._next:
                self._again("ended")
            return
        if now - self._tended < _TEND_SECONDS:
            return
        self._tended = now
        self._held.public.keep(self.keys, self._home.header)
        try:
            rows = self.runtime.counters()
            self._heard = time.monotonic()
        except Unavailable:
            if time.monotonic() - self._heard > self._silence:
                self._again(f"has answered nothing for {self._silence:.0f} s")
            return
        self._backoff = 0.0
        if self._engine is not None:  # who was held although the engine is there goes on
            backs = [row for row in rows if row["pxname"] in HOLDS and row["svname"] == "BACKEND"]
            held = any(row["scur"] != "0" for row in backs)
            self.runtime.ready(HOLDS, *((ANEW, (WAIT,)) if held else (WAIT, (ANEW,))))
        self._renew()

    def _again(self, lost: str) -> None:
        log.warning("HAProxy %s: it is started again; its last words: %s", lost, self._last_words() or "none")
        self._backoff = min(2 * self._backoff or _PAUSE_SECONDS, _LONGEST_BACKOFF_SECONDS)
        self._next = time.monotonic() + self._backoff
        self.restarts += 1
        self._stop()
        self._start()

    def _renew(self) -> None:
        """Use the certificate that lies where the one that is used did, if it is another one."""
        if not self._pem or (found := self._pair()) == self._pem:
            return
        network = self.network
        assert network.certificate is not None
        assert network.private_key is not None
        certificate.check(network.certificate, network.private_key)
        self.runtime.replace_certificate(PEM, found)
        write_whole(self._folder.path / PEM, found.encode(), 0o600)
        self._pem = found
        if not isinstance(self.trusted, bool):
            self.trusted.load_verify_locations(network.certificate)
        log.warning("there is a new certificate, which new connections get")

    def _pair(self) -> str:
        """Certificate and key, as HAProxy reads them."""
        files = (self.network.certificate, self.network.private_key)
        try:
            return "\n".join(file.read_text("ascii") for file in files if file is not None)
        except (OSError, ValueError) as error:
            raise Unavailable(f"the certificate can't be read: {error}") from error

    def _start(self) -> None:
        folder = self._folder.path
        self._pem = self._pair()
        maps = {f"{name}.map": entries for name, entries in self._held.maps().items()}
        assert maps.keys() == {INFERENCE, MANAGEMENT, FORMER}
        lines = {name: "".join(f"{k} {v}\n" for k, v in entries.items()) for name, entries in maps.items()}
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        many = descriptors if descriptors != resource.RLIM_INFINITY else 1 << 20
        at = Situation(self.options, self.network, self.ports, self._held.secret, many, self._engine)
        files = {"haproxy.cfg": configuration(at), PEM: self._pem, **lines, **answers.files()}
        for name, text in files.items():
            write_whole(folder / name, text.encode(), 0o600)
        command = [str(self.options.binary.path), "-db", "-f", "haproxy.cfg"]
        log_file = self._home.logs / "haproxy.log"
        self._child = Child(command, self._folder, {"PATH": "/usr/bin:/bin"}, log_file)
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(Unavailable):
                self.runtime.ask("show info")
                self._heard = time.monotonic()
                return
            if not self.running or time.monotonic() > deadline:
                words = self._last_words()
                self._stop()
                raise ServingError(f"HAProxy did not start: {words}")
            time.sleep(_PAUSE_SECONDS)

    def _last_words(self) -> str:
        return "" if self._child is None else self._child.last_words()

    def _stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def _end(self) -> None:
        """Let answers that are on their way arrive, then stop. May be called twice."""
        try:
            if self.running:
                self._finish()
            self._stop()
        finally:
            self._health.stop()
            self._folder.remove()

    def _finish(self) -> None:
        assert self._child is not None
        self._child.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + _FINISH_SECONDS
        while self.running and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
