"""A running server, as whoever changes it holds it: its files, and clients with its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eideticnet.client.key import Key
from eideticnet.export.archive import Archive
from eideticnet.serving.home import Home
from eideticnet.serving.management import Management
from eideticnet.serving.probes import Prober
from eideticnet.serving.running import BATCHING, Running
from eideticnet.serving.state import State, Version
from eideticnet.serving.store import opened
from eideticnet.serving.strangers import Strangers


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds: for a version to answer, and for one to run empty."""

    ready: float = 120.0
    drain: float = 30.0


@dataclass(frozen=True)
class Connection:
    """``management`` changes what the server holds, ``prober`` asks it for answers."""

    home: Home
    running: Running
    management: Management
    prober: Prober
    limits: Limits = Limits()

    def state(self) -> State:
        """What is to be served; ``Unavailable`` while that is not known."""
        return State.known(self.home.state)

    def archive(self, name: str, version: Version) -> Archive:
        """The archive of ``version`` of the model ``name``, if it is still the one that was admitted and its
        format is allowed."""
        return opened(name, version, self.home.store, allow_torch=self.running.allow_torch)

    def load(self, name: str, version: Version) -> None:
        """Begin to load a version whose archive is still the one that was admitted."""
        self.archive(name, version)
        self.management.register(version.file, BATCHING[self.running.profile])


@contextmanager
def connect(home: Home, running: Running, limits: Limits = Limits()) -> Iterator[Connection]:
    """Clients of a running server with the tokens that it has, also when it has others later."""
    keys, verify = Path(running.keys), running.verify()
    strangers = Strangers(running.grpc_management, Key(keys, "management"), running.certificate, verify)
    with (
        Management(running.management, keys, strangers, verify=verify) as management,
        Prober(running.inference, keys, verify=verify) as prober,
    ):
        yield Connection(home, running, management, prober, limits)
