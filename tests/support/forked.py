"""``eidetic`` and scripts in processes of their own, forked from one that has imported torch, its exporter
and the commands already: they begin at once, not after the three seconds that all that takes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]
_IMPORTED = [
    *("torch._dynamo", "eideticnet.menu", "eideticnet.runs.commands", "eideticnet.export.commands"),
    *("eideticnet.export.build", "eideticnet.serving.commands", "tests.support.killed_jobs"),
]


def forking() -> ForkServerContext:
    """Makes processes that are forked from that one, which ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path])):
        forkserver.ensure_running()  # which would not find the modules otherwise
    return context


class Forked:
    """Python that runs in such a process in the folder ``cwd``, and what it writes."""

    def __init__(self, code: str, cwd: Path) -> None:
        self._code, self._written = code, tempfile.TemporaryDirectory()
        self._files = [Path(self._written.name, name) for name in ("stdout", "stderr")]
        self._process = forking().Process(target=_run, args=(code, cwd, self._files, {**os.environ}))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def end(self) -> subprocess.CompletedProcess[str]:
        """How it ended, once it has."""
        self._process.join()
        assert self._process.exitcode is not None
        with self._written:
            return subprocess.CompletedProcess(
                self._code, self._process.exitcode, *(path.read_text() for path in self._files)
            )


def eidetic(*arguments: object, cwd: Path = ROOT, changes: str = "") -> Forked:
    """A command, in whose process ``changes``, some Python, was run first."""
    start = f"from eideticnet.__main__ import main\nmain({[*map(str, arguments)]!r})"
    return Forked(f"{changes}\n{start}", cwd)


def script(path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script, to its end."""
    return Forked(f"import runpy\nrunpy.run_path({str(path)!r}, run_name='__main__')", cwd).end()


def _run(code: str, cwd: Path, files: list[Path], environment: dict[str, str]) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # which is looked up there again
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    torch.set_num_threads(1)
    exec(code, {"__name__": "__main__"})
