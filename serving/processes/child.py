"""A program of the server's own: in a group and a private folder, its output kept, ended as a whole."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from eideticnet.serving.processes.folder import MARK, PrivateFolder
from eideticnet.serving.processes.groups import end_group, owned
from eideticnet.serving.processes.output import Output

_MOMENT_SECONDS = 1.0


class Child:
    """``command``, started in ``folder`` with the ``environment`` alone; what it prints goes to ``log``. If
    this process is killed, the kernel ends it."""

    def __init__(
        self, command: Sequence[str], folder: PrivateFolder, environment: Mapping[str, str], log: Path
    ) -> None:
        self.process = subprocess.Popen(
            owned(command),
            cwd=folder.path,
            env={**environment, MARK: str(folder.real)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._output = Output(self.process.stdout, log)

    @property
    def pid(self) -> int:
        """Its process id, and id of its group."""
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def last_words(self, seconds: float = _MOMENT_SECONDS) -> str:
        """The last lines that it printed: all of them if it ends within ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
            self._output.close()
        return self._output.tail()

    def stop(self) -> None:
        """End the whole group. May be called twice."""
        end_group(self.process)
        self._output.close()
