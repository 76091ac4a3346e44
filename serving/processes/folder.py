"""The private folder of one engine: its settings and keys, what it unpacks, its workers' sockets.

It lies in the server's home, where no cleaner of temporary files comes by. The engine knows it by a path that
leads through this process: that one is short enough for a socket's name however long the home's is, and stays
right when the home is moved. Every process that belongs to it carries its path, so that a killed server is
cleaned up."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from eideticnet.files import remove_abandoned
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Running

MARK = "EIDETIC_FOLDER"
"""The variable by which a process that belongs to a private folder is known, after its owner was killed."""
_PREFIX = "eidetic-"
_LOOKS, _PAUSE_SECONDS = 50, 0.02
_SPARE = 4 << 20
"""Bytes that an engine needs beside its models."""


class PrivateFolder:
    """A new folder in ``root`` that is fit for an engine of archives of ``room`` bytes; else ``Unavailable``
    says why there is none. ``real`` is where it was made, ``path`` how it is found. ``engine`` is what it is
    called, ``socket`` the longest name that it gives to one."""

    def __init__(self, root: Path, engine: str, socket: str, room: int = 0) -> None:
        self._engine, self._socket = engine, socket
        try:
            root.mkdir(mode=0o700, exist_ok=True)
            self.real = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root.resolve(strict=True)))
            self._descriptor = os.open(self.real, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Unavailable(f"{engine} can have no folder in {root}: {error.strerror}") from error
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
        """What would fail later, inside the engine and without its cause: room, sockets, programs."""
        where = f"{self._engine} can't run in {self.real.parent}"
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
                listener.bind(str(self.path / self._socket))
            (self.path / self._socket).unlink()
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


def clean_up(home: Home) -> None:
    """End the processes and remove the folders of servers that are gone, and files that they had no time to
    finish; the caller holds the home's lock."""
    for folder in _folders(home):
        end_marked(folder)
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        remove_abandoned(home.root)
        for path in [*home.root.glob(".new-*"), home.running]:  # the first as older servers left them
            path.unlink(missing_ok=True)


def _folders(home: Home) -> list[Path]:
    """Private folders, also that of an older server, which had it elsewhere."""
    found = sorted(home.run.resolve().glob(f"{_PREFIX}*"))
    with suppress(ServingError):  # none, or a damaged server.json, which names nothing to clean up
        named = Path(Running.read(home.running).folder)
        if named.name.startswith(_PREFIX) and named not in found:
            found.append(named)
    return found


def end_marked(folder: Path) -> None:
    """End the other processes that belong to ``folder``, in whichever group they are, and those that they
    started meanwhile."""
    for _ in range(_LOOKS):
        if not sum(_ended(int(entry.name), folder) for entry in Path("/proc").glob("[0-9]*")):
            return
        time.sleep(_PAUSE_SECONDS)


def _ended(pid: int, folder: Path) -> bool:
    """Whether a process belonged to ``folder``, and was ended."""
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if pid != os.getpid() and f"{MARK}={folder}".encode() in environment:
            os.kill(pid, signal.SIGKILL)
            return True
    return False
