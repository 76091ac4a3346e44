"""The private folder of one TorchServe: its settings and keys, what it unpacks, its workers' sockets.

It lies in the server's home, where no cleaner of temporary files comes by. TorchServe knows it by a path that
leads through this process: that one is short enough for a socket's name however long the home's is, and stays
right when the home is moved.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from eideticnet.serving.errors import Unavailable

PREFIX = "eidetic-"
_SPARE = 4 << 20
"""Bytes that a TorchServe needs beside its models."""


class PrivateFolder:
    """A new folder in ``root`` that is fit for a TorchServe of archives of ``room`` bytes; else
    ``Unavailable`` says why there is none. ``real`` is where it was made, ``path`` how it is found."""

    def __init__(self, root: Path, room: int = 0) -> None:
        try:
            root.mkdir(mode=0o700, exist_ok=True)
            self.real = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root.resolve(strict=True)))
            self._descriptor = os.open(self.real, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Unavailable(f"TorchServe can have no folder in {root}: {error.strerror}") from error
        self.path = self._through_us()
        try:
            self._check(room)
        except BaseException:
            self.remove()
            raise

    def _through_us(self) -> Path:
        """The path through this process, unless /proc, where there is one, is that of other processes."""
        through = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        try:
            ours = os.path.samestat(through.stat(), os.fstat(self._descriptor))
        except OSError:
            return self.real
        return through if ours else self.real

    def _check(self, room: int) -> None:
        """What would fail later, inside Java and without its cause: room, sockets, programs."""
        where = f"TorchServe can't run in {self.real.parent}"
        file = self.path / "check"
        try:
            with file.open("wb") as new:
                os.posix_fallocate(new.fileno(), 0, room + _SPARE)
            file.unlink()
        except OSError as error:
            need = (room + _SPARE) >> 20
            raise Unavailable(f"{where}: it needs {need} MB there: {error.strerror}") from error
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self.path / ".ts.sock.65535"))
            (self.path / ".ts.sock.65535").unlink()
        except OSError as error:
            raise Unavailable(f"{where}: no socket can be made there: {error}; try another --home") from error
        try:
            file.write_text("#!/bin/sh\n")
            file.chmod(0o700)
            subprocess.run([file], check=True, capture_output=True)
            file.unlink()
        except (OSError, subprocess.CalledProcessError) as error:
            reason = f"no program can be run there, as if it were mounted noexec: {error}"
            raise Unavailable(f"{where}: {reason}; try another --home") from error

    def remove(self) -> None:
        """May be called twice."""
        if self._descriptor < 0:
            return
        shutil.rmtree(self._now(), ignore_errors=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def _now(self) -> Path:
        """Where it lies, if the home was moved."""
        return self.real if self.path == self.real else self.path.readlink()
