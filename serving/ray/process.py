"""One host of Ray and its private folder: started, watched and removed together with all that it started."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from eideticnet.serving.engine import EngineError, Setup
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import reachable
from eideticnet.serving.home.running import Keys, Running
from eideticnet.serving.key import Key
from eideticnet.serving.processes.child import Child
from eideticnet.serving.processes.folder import PrivateFolder, end_marked
from eideticnet.serving.processes.groups import end_group
from eideticnet.serving.ray.management import RayManagement
from eideticnet.serving.ray.settings import Settings, environment

_SOCKET = "s" * 82
"""As long as the longest name of a socket of Ray's, below its folder: that of a node's HAProxy."""
_SETTINGS = "host.json"
_EVERY_HOST = "0.0.0.0"
"""Where the replicas of a cluster listen, so that the proxies of other nodes reach them."""
_PAUSE_SECONDS = 0.05
_MOMENT_SECONDS = 1.0


class Host:
    """Implements ``Process``: the host, and the tokens that it was given."""

    def __init__(self, setup: Setup, address: str, most: int, keys: Keys) -> None:
        self._setup, self._given = setup, keys
        self._child: Child | None = None
        self._folder = private_folder(setup.home.run, setup.room)
        workers = int(setup.variables.get("EIDETIC_WORKERS", "1"))
        try:
            settings = Settings(
                address=address,
                folder=str(self._folder.path),
                host=_EVERY_HOST if address else setup.network.host,
                inference=setup.ports.inference,
                grpc_inference=setup.ports.grpc_inference,
                management_host=reachable(setup.network.management_host),
                management=setup.ports.management,
                store=str(setup.home.store.resolve()),
                shared=not address,
                workers=workers,
                most=max(most, workers),
                allow_torch=True,  # each archive was admitted
                keys=keys,
            )
            self._start(settings)
        except BaseException:
            self.stop()
            raise

    def _start(self, settings: Settings) -> None:
        file = self._folder.path / _SETTINGS
        settings.write(file, mode=0o600)
        variables = self._setup.variables
        joins = {**os.environ, **variables}  # as who started the cluster has it
        own = joins if settings.address else environment(self._folder.path, variables)
        command = [sys.executable, "-m", "eideticnet.serving.ray.host", str(file)]
        self._child = Child(command, self._folder, own, self._setup.home.logs / "ray.log")

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def folder(self) -> Path:
        return self._folder.real

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def ready(self, running: Running, seconds: float) -> None:
        keys = self._setup.keys
        keys.parent.mkdir(parents=True, exist_ok=True)
        self.tend()
        deadline = time.monotonic() + seconds
        with RayManagement(running.management, Key(keys, "management")) as management:
            while True:
                try:
                    management.models(_MOMENT_SECONDS)
                    return
                except EngineError as error:
                    problem = str(error)
                if not self.running:
                    raise ServingError(f"Ray ended while starting:\n{self.last_words()}")
                if time.monotonic() > deadline:
                    late = f"Ray is not ready after {seconds:.0f} s: {problem}"
                    again = "start it again when the machine is less busy, or with --startup-seconds"
                    said = self.last_words() or "(nothing)"
                    raise ServingError(f"{late}; {again}; the end of its log:\n{said}")
                time.sleep(_PAUSE_SECONDS)

    def tend(self) -> None:
        """See that the files for clients hold the right tokens."""
        self._given.keep(self._setup.keys, self._setup.header)

    def damaged(self) -> str:
        if (self._folder.path / _SETTINGS).exists():
            return ""
        return f"{_SETTINGS} of Ray's folder {self.folder} is gone"

    def last_words(self, seconds: float = _MOMENT_SECONDS) -> str:
        return "" if self._child is None else self._child.last_words(seconds)

    def stop(self) -> None:
        """End all that was started here, and remove the private folder. May be called twice."""
        try:
            if self._child is not None:
                end_group(self._child.process)
                end_marked(self.folder)  # Ray's workers have groups of their own, and the same output
                self._child.stop()
        finally:
            self._folder.remove()


def private_folder(root: Path, room: int) -> PrivateFolder:
    """One in ``root`` that Ray can run in; else ``Unavailable``."""
    return PrivateFolder(root, "Ray", _SOCKET, room)
