"""Ray Serve as an ``Engine``."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from eideticnet.serving.engine import Process, Setup
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import Network
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Keys, Running
from eideticnet.serving.key import Key
from eideticnet.serving.ray.management import RayManagement
from eideticnet.serving.ray.process import Host, private_folder
from eideticnet.serving.ray.told import ERROR_SCHEMA


def _new_keys() -> Keys:
    return Keys(inference=secrets.token_urlsafe(32), management=secrets.token_urlsafe(32))


@dataclass(frozen=True)
class RayEngine:
    """Implements ``Engine``. ``address``: that of a cluster; "" for a Ray of this machine. There are up to
    ``most`` replicas where requests wait, if that is more than were asked for."""

    name: ClassVar[str] = "Ray Serve"
    error_schema: ClassVar[dict[str, Any]] = ERROR_SCHEMA
    address: str = ""
    most: int = 0
    keys: Keys = field(default_factory=_new_keys, repr=False)
    """They stay for as long as a supervisor runs, however often Ray is started again."""

    def check(self, network: Network) -> list[str]:
        if importlib.util.find_spec("ray") is None:
            raise ServingError("Ray is not installed here: pip install 'eideticnet[ray]'")
        if network.certificate:
            raise ServingError("Ray Serve speaks no TLS itself: let the edge do it (--edge)")
        return []

    def check_place(self, root: Path, room: int) -> None:
        private_folder(root, room).remove()

    @contextmanager
    def start(self, setup: Setup) -> Iterator[Process]:
        host = Host(setup, self.address, self.most, self.keys)
        try:
            yield host
        finally:
            host.stop()

    def manage(self, home: Home, running: Running) -> AbstractContextManager[RayManagement]:
        return RayManagement(running.management, Key(Path(running.keys), "management"))
