"""A running server, as a command that changes it sees it: its files, its engine, and clients with its
tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from eideticnet.export.archive.reader import Archive
from eideticnet.serving.default_engine import engine_called
from eideticnet.serving.deploys.probes import Prober
from eideticnet.serving.engine import Engine, Management
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Running
from eideticnet.serving.home.state import State, Version
from eideticnet.serving.home.store import opened


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds: for a version to answer, and for one to run empty."""

    ready: float = 120.0
    drain: float = 30.0


@dataclass(frozen=True)
class Connection:
    """``management`` changes what the ``engine`` holds, ``prober`` asks it for answers. ``known`` are the
    archives that were read, where they are kept."""

    home: Home
    running: Running
    engine: Engine
    management: Management
    prober: Prober
    timeouts: Timeouts = Timeouts()
    known: dict[Version, Archive] | None = None

    def state(self) -> State:
        """What is to be served; ``Unavailable`` while that is not known."""
        return State.known(self.home.state)

    def for_one_change(self, known: dict[Version, Archive]) -> Connection:
        """The same for a single change, which reads and checks an archive once, and the ``known`` ones not
        again."""
        return replace(self, known=known)

    def archive(self, name: str, version: Version, *, revoked: bool = True) -> Archive:
        """The archive of ``version`` of the model ``name``, if it is still the one that was admitted, its
        format is allowed, and its signer trusted; ``revoked``: also one whose handler is no more."""
        if self.known is not None and version in self.known:
            return self.known[version]
        store, torch = self.home.store, self.running.allow_torch
        trusted = self.state().trusted
        archive = opened(name, version, store, allow_torch=torch, revoked=revoked, trusted=trusted)
        if self.known is not None:
            self.known[version] = archive
        return archive

    def load(self, name: str, version: Version) -> None:
        """Begin to load a version whose archive is still the one that was admitted."""
        self.archive(name, version)
        self.management.hold(name, version, self.running.profile)


@contextmanager
def connect(
    home: Home, running: Running, timeouts: Timeouts = Timeouts(), engine: Engine | None = None
) -> Iterator[Connection]:
    """Clients of a running server with the tokens that it has, also when it has others later."""
    engine = engine or engine_called(running.engine)
    with (
        engine.manage(home, running) as management,
        Prober(running.inference, Path(running.keys), verify=running.verify()) as prober,
    ):
        yield Connection(home, running, engine, management, prober, timeouts)
