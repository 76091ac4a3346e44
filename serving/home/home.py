"""A server's home folder: where its files lie, and the two locks on it.

The kernel releases both locks when their holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eideticnet.serving.errors import ServingError, Unavailable

_LOCK_PAUSE = 0.1
_LOOK_SECONDS = 0.5
"""Longer than a mere look at the server's lock holds it."""


class Home:
    """The folder ``root``. ``keys`` may lie elsewhere, where a container mounts secrets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state, self.keys = root / "state.json", root / "keys.json"
        self.running = root / "server.json"
        """There while a server runs, or after it was killed."""
        self.ports = root / "ports.json"
        """Those that a server took here last."""
        self.header = root / "authorization.txt"
        """The inference token as an HTTP header."""
        self.server_lock = root / "server.lock"
        self.store, self.reports, self.logs = root / "store", root / "reports", root / "logs"
        self.metrics, self.examples = root / "metrics", root / "examples"
        self.rings = root / "rings"
        """The last requests of each worker."""
        self.compiled = root / "compiled"
        """Graphs as they were compiled for this machine."""
        self.run = root / "run"
        """Where the engine's private folder lies while it runs."""
        served = self.store, self.reports, self.logs, self.metrics, self.rings
        self._folders = *served, self.examples, self.compiled, self.run

    def example(self, model: str) -> Path:
        """An instance that ``model`` takes, as .npy."""
        return self.examples / f"{model}.npy"

    def create(self) -> None:
        """Make the folders that are not there yet. No other user may read what requests held, nor, where a
        folder was there before, put another file in the place of one that was checked."""
        try:
            self._check_ours()
            if self.header.exists():  # it has served, perhaps with rings in a folder of another name
                with suppress(OSError):
                    (self.root / "records").rename(self.rings)
            for folder in (self.root, *self._folders):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                _close_to_others(folder)
        except OSError as error:
            raise ServingError(f"{self.root} can't be a server's home: {error}") from error

    def _check_ours(self) -> None:
        """``ServingError`` for a folder of another program: when a server starts, it removes from its store
        and metrics what it does not know."""
        if any(map(os.path.lexists, (self.server_lock, self.state, self.header))):
            return
        for folder in self._folders:
            if folder.is_dir() and any(folder.iterdir()):
                raise ServingError(
                    f"{self.root} is no server's home, and {folder} holds other files: name a new folder"
                )

    def served(self) -> bool:
        """Whether a server runs here: whether its lock is held, which no reused process id can fake."""
        try:
            descriptor = os.open(self.server_lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(f"{self.root} can't be read: {error}") from error
        try:
            return not _try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def holder(self) -> tuple[int, float]:
        """Of the last holder of the server's lock: the process, 0 if it could not be written, and when, in
        Unix seconds."""
        try:
            text, found = self.server_lock.read_text("ascii"), self.server_lock.stat()
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.server_lock} can't be read: {error}") from error
        return int(text) if text.isdigit() else 0, found.st_mtime

    @contextmanager
    def serving(self) -> Iterator[None]:
        """``held`` for as long as a server runs here."""
        with self.held():
            try:
                yield
            finally:
                with suppress(OSError):
                    self.running.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock of the server that runs here; ``Locked`` names the one that does."""
        other = f"eidetic deploy ARCHIVE --home {self.root} gives it another version, "
        other += "and another --home is another server"
        with _locked(self.server_lock, _LOOK_SECONDS, f"a server runs in {self.root} already", other):
            yield

    @contextmanager
    def changing(self, seconds: float = 30.0) -> Iterator[None]:
        """Held while what is served is changed; waits ``seconds`` for another holder."""
        with _locked(self.root / "deploy.lock", seconds, f"another command changes what {self.root} serves"):
            yield


def _close_to_others(folder: Path) -> None:
    """Take from others the right to write; a folder of another owner is that owner's to judge."""
    found = folder.stat()
    if found.st_uid == os.getuid() and found.st_mode & 0o022:
        folder.chmod(found.st_mode & 0o7777 & ~0o022)


class Locked(ServingError):
    """Another process holds the lock; the message names it."""


@contextmanager
def _locked(path: Path, seconds: float, problem: str, advice: str = "") -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{path} can't be locked: {error}") from error
    try:
        deadline = time.monotonic() + seconds
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = ""
                with suppress(OSError):  # it is no regular file
                    holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                raise Locked(f"{problem}: process {holder or 'unknown'}" + (f"; {advice}" if advice else ""))
            time.sleep(_LOCK_PAUSE)
        with suppress(OSError):  # a full disk: the lock is held, but does not name its holder
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
