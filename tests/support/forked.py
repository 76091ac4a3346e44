"""``eidetic``, servers and scripts in processes of their own, forked from one that has imported torch, its
exporter and the commands already: they begin at once, not after the three seconds that all that takes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
_IMPORTED = [
    *("torch._dynamo", "eideticnet.menu", "eideticnet.runs.commands", "eideticnet.export.commands"),
    *("eideticnet.export.build", "eideticnet.serving.commands", "tests.support.killed_jobs"),
    "tests.support.quick_exporter",
]

_KNOWN: Any = forkserver._forkserver  # type: ignore[attr-defined]
"""The one that this process has, or comes to have."""


def offered() -> str:
    """Where another process finds that one, which is started if it isn't there, and ends with this one. What
    jobs say that tests interrupt would stand among the tests' dots."""
    said = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nobody:
            os.dup2(nobody.fileno(), 2)
        forking()
    finally:
        os.dup2(said, 2)
        os.close(said)
    return str(_KNOWN._forkserver_address)


def taken_from(address: str) -> None:
    """Use the one of another process, as those of pytest-xdist do that of the process that started them: it
    imports once for all, and meanwhile they collect."""
    _KNOWN._forkserver_address, _KNOWN._forkserver_alive_fd = address, os.pipe()[1]
    _KNOWN.ensure_running = resource_tracker.ensure_running


def forking() -> ForkServerContext:
    """Makes processes that are forked from that one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path])):
        _KNOWN.ensure_running()  # which would not find the modules otherwise
    return context


class Running:
    """Python that runs in such a process in the folder ``cwd`` and writes to two files, or twice to one; with
    what tests ask of a ``subprocess.Popen``."""

    def __init__(self, code: str, cwd: Path, files: Sequence[Path], *, session: bool = False) -> None:
        self._code = code
        usual = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
        self._process = forking().Process(target=_run, args=(code, cwd, files, usual, session))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(self._code, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forked(Running):
    """One whose output is kept until it has ended."""

    def __init__(self, code: str, cwd: Path) -> None:
        self._written = tempfile.TemporaryDirectory()
        self._files = [Path(self._written.name, name) for name in ("stdout", "stderr")]
        super().__init__(code, cwd, self._files)

    def end(self) -> subprocess.CompletedProcess[str]:
        """How it ended, once it has."""
        status = self.wait()
        with self._written:
            return subprocess.CompletedProcess(
                self._code, status, *(path.read_text() for path in self._files)
            )


def code_of(arguments: Sequence[object], changes: str = "") -> str:
    """The code of a command ``eidetic``, before which ``changes``, some Python, is run."""
    return f"{changes}\nfrom eideticnet.__main__ import main\nmain({[*map(str, arguments)]!r})"


def eidetic(*arguments: object, cwd: Path = ROOT, changes: str = "") -> Forked:
    """A command, in whose process ``changes``, some Python, was run first."""
    return Forked(code_of(arguments, changes), cwd)


def script(path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script, to its end."""
    return Forked(f"import runpy\nrunpy.run_path({str(path)!r}, run_name='__main__')", cwd).end()


def _run(code: str, cwd: Path, files: Sequence[Path], environment: dict[str, str], session: bool) -> None:
    import torch

    if session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # which is looked up there again
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    torch.set_num_threads(1)
    exec(code, {"__name__": "__main__"})
