"""TorchServe as an ``Engine``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from eideticnet.serving.engine import Process, Setup
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import Network
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Running
from eideticnet.serving.key import Key
from eideticnet.serving.torchserve import tls
from eideticnet.serving.torchserve.management import ManagementError, TorchServeManagement
from eideticnet.serving.torchserve.process import TorchServe, give_up, private_folder, wait_for_keys
from eideticnet.serving.torchserve.settings import HEAP_MEGABYTES, YEAR_IN_MINUTES
from eideticnet.serving.torchserve.strangers import Strangers
from eideticnet.serving.torchserve.tokens import Tokens
from eideticnet.serving.torchserve.words import ERROR_SCHEMA

_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class TorchServeEngine:
    """Implements ``Engine``. ``heap``: the megabytes of Java's heap; ``token_minutes``: how long TorchServe
    takes its own tokens for good."""

    name: ClassVar[str] = "TorchServe"
    error_schema: ClassVar[dict[str, Any]] = ERROR_SCHEMA
    heap: int = HEAP_MEGABYTES
    token_minutes: int = YEAR_IN_MINUTES

    def check(self, network: Network) -> list[str]:
        for host in {network.host, network.management_host}:
            if ":" in host:
                raise ServingError(f"TorchServe takes no IPv6 address ({host}): give an IPv4 one or a name")
        if network.certificate and network.private_key:
            return tls.check(network.certificate, network.private_key)
        return []

    def check_place(self, root: Path, room: int) -> None:
        private_folder(root, room).remove()

    @contextmanager
    def start(self, setup: Setup) -> Iterator[Process]:
        with _Started(setup, self.heap, self.token_minutes) as started, started.clients:
            yield started

    def manage(self, home: Home, running: Running) -> AbstractContextManager[TorchServeManagement]:
        return _managed(home, running)


class _Started(TorchServe):
    """Implements ``Process``: TorchServe, its tokens, and a client that renews them."""

    _tokens: Tokens
    _management: TorchServeManagement

    def __init__(self, setup: Setup, heap: int, token_minutes: int) -> None:
        self._setup, self._minutes, self.clients = setup, token_minutes, ExitStack()
        super().__init__(
            [],
            setup.ports,
            store=setup.home.store.resolve(),
            log=setup.home.logs / "torchserve.log",
            network=setup.network,
            variables=setup.variables,
            heap=heap,
            root=setup.home.run,
            room=setup.room,
            token_minutes=token_minutes,
        )

    @property
    def folder(self) -> Path:
        return self.home

    def ready(self, running: Running, seconds: float) -> None:
        wait_for_keys(self, seconds)
        setup = self._setup
        keys, home = setup.keys, setup.home
        self._tokens = Tokens(self.key_file, self._minutes, keys, setup.header, waiting=setup.waiting)
        keys.parent.mkdir(parents=True, exist_ok=True)
        self._tokens.write()
        self._management = self.clients.enter_context(_managed(home, running))
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._management.models()
                return
            except ManagementError as error:
                problem = f"{error} within {seconds:.0f} s"
            give_up(self, deadline, problem)
            time.sleep(_PAUSE_SECONDS)

    def tend(self) -> None:
        self._tokens.tend(self._management)


@contextmanager
def _managed(home: Home, running: Running) -> Iterator[TorchServeManagement]:
    """A client with the tokens that TorchServe has, also when it has others later."""
    keys, verify = Path(running.keys), running.verify()
    strangers = Strangers(running.grpc_management, Key(keys, "management"), running.certificate, verify)
    with TorchServeManagement(running.management, keys, strangers, home.store, verify=verify) as management:
        yield management
