"""What an engine needs to be started again. While something is missing, what is loaded goes on."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from eideticnet.serving.deploys.connection import Connection
from eideticnet.serving.engine import Engine
from eideticnet.serving.errors import Unavailable
from eideticnet.serving.home.addresses import Network, Ports
from eideticnet.serving.home.home import Home
from eideticnet.serving.supervise.launch import room
from eideticnet.serving.supervise.ports import taken


class Needs:
    """Of a server in ``home``, whose lock is held. ``ports``: those that the engine takes again, if it does
    not take others each time. A context manager: leaving it lets go of other locks."""

    def __init__(self, home: Home, engine: Engine, network: Network, ports: Ports | None) -> None:
        self._engine = engine
        self._home, self._network, self._ports = home, network, ports
        self._first, self._other = home.server_lock.stat(), home.server_lock.stat()
        self._locks = ExitStack()

    def check(self, server: Connection, *, running: bool) -> None:
        """``Unavailable``, ``ArchiveError`` or ``OSError`` say what is missing: the home, what is to be
        served, its archives, a place to run, and, unless the engine is ``running``, its ports."""
        self.check_home()
        for name, model in server.state().models.items():
            server.archive(name, model.default)
        self._engine.check_place(self._home.run, room(self._home))
        if not running and self._ports and (others := taken(self._ports, self._network)):
            raise Unavailable(f"another program has port {', '.join(map(str, others))}")

    def check_home(self) -> None:
        """``Unavailable`` where the home is gone. One that was put in its place, as from a copy, counts too,
        unless another server runs there, whom ``Locked`` names. A folder that holds no state is no home, and
        nothing is written there."""
        if not self._home.root.is_dir():
            raise Unavailable(f"{self._home.root} is gone")
        with suppress(OSError):
            found = self._home.server_lock.stat()
            if os.path.samestat(self._first, found):  # held by the caller all the time
                self._locks.close()
                self._other = self._first
                return
            if os.path.samestat(self._other, found):
                return
        if not self._home.state.exists():
            raise Unavailable(f"{self._home.root} is another folder than before: it holds no state.json")
        self._locks.close()
        self._other = self._first
        self._locks.enter_context(self._home.held())
        self._other = self._home.server_lock.stat()

    def __enter__(self) -> Needs:
        return self

    def __exit__(self, *error: object) -> None:
        self._locks.close()
