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
        with (
            TorchServe(
                [],
                setup.ports,
                store=setup.home.store.resolve(),
                log=setup.home.logs / "torchserve.log",
                network=setup.network,
                variables=setup.variables,
                heap=self.heap,
                root=setup.home.run,
                room=setup.room,
                token_minutes=self.token_minutes,
            ) as torchserve,
            ExitStack() as clients,
        ):
            yield _Started(torchserve, setup.home, self.token_minutes, clients)

    def manage(self, home: Home, running: Running) -> AbstractContextManager[TorchServeManagement]:
        return _managed(home, running)


class _Started:
    """Implements ``Process``: TorchServe, its tokens, and a client that renews them."""

    def __init__(self, torchserve: TorchServe, home: Home, minutes: int, clients: ExitStack) -> None:
        self._torchserve, self._home, self._minutes, self._clients = torchserve, home, minutes, clients
        self._tokens: Tokens
        self._management: TorchServeManagement

    @property
    def pid(self) -> int:
        return self._torchserve.pid

    @property
    def folder(self) -> Path:
        return self._torchserve.home

    @property
    def running(self) -> bool:
        return self._torchserve.running

    def ready(self, running: Running, seconds: float) -> None:
        wait_for_keys(self._torchserve, seconds)
        keys = Path(running.keys)
        self._tokens = Tokens(self._torchserve.key_file, self._minutes, keys, self._home.header)
        keys.parent.mkdir(parents=True, exist_ok=True)
        self._tokens.write()
        self._management = self._clients.enter_context(_managed(self._home, running))
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._management.models()
                return
            except ManagementError as error:
                problem = f"{error} within {seconds:.0f} s"
            give_up(self._torchserve, deadline, problem)
            time.sleep(_PAUSE_SECONDS)

    def tend(self) -> None:
        self._tokens.tend(self._management)

    def damaged(self) -> str:
        return self._torchserve.damaged()

    def last_words(self, seconds: float = 1.0) -> str:
        return self._torchserve.last_words(seconds)


@contextmanager
def _managed(home: Home, running: Running) -> Iterator[TorchServeManagement]:
    """A client with the tokens that TorchServe has, also when it has others later."""
    keys, verify = Path(running.keys), running.verify()
    strangers = Strangers(running.grpc_management, Key(keys, "management"), running.certificate, verify)
    with TorchServeManagement(running.management, keys, strangers, home.store, verify=verify) as management:
        yield management
