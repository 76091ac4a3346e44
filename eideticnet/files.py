"""Files that are written whole or not at all, and files that are read. Imports the standard library alone."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path

LARGEST = 8 << 30
"""Bytes above which nothing is read unless told otherwise: an archive has 4 GiB at most."""
_MOST_LETTERS = 50
"""Of a name that a partial file repeats: a name has 255 bytes at most, and a letter four."""
_PARTIAL = re.compile(r".+\.\d+-[0-9a-f]{8}\.partial")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnreadableError(OSError):
    """A path at which there is no regular file, or a larger one than expected."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[Path, str]]:
        return type(self), (Path(self.filename), self.strerror or "")

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def open_regular(path: Path, most: int | None = LARGEST) -> BufferedReader:
    """Open ``path`` for reading. ``UnreadableError`` at once where it is no regular file, or has more than
    ``most`` bytes (None: any number): a pipe would be waited for, a device never ends, and neither can be
    read twice, once to check and once to use it."""
    _check_regular(path, path.stat(), most)
    # what it is now may be replaced before it is opened
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(path, os.fstat(descriptor), most)
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(path: Path, found: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise UnreadableError(path, f"it is {kind}; expected a regular file")
    if most is not None and found.st_size > most:
        raise UnreadableError(path, f"it has {found.st_size} bytes; expected {most} at most")


def read_regular(path: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file of at most ``most`` bytes; else ``UnreadableError``."""
    with open_regular(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace ``path`` by ``data``, as ``whole_file`` does."""
    with whole_file(path, mode) as file:
        file.write(data)


@contextmanager
def whole_file(destination: Path, mode: int | None = None) -> Iterator[BufferedRandom]:
    """A new file, to be written and read, that takes the place of ``destination`` once the block has ended
    well, and leaves nothing behind otherwise. After a power cut there is the old file or the new one, never a
    part. ``mode``: its permissions, by default those that the umask leaves.

    Its folder is not made. ``OSError`` also where it would replace a device, which would be gone for every
    user, or anything else that is no file."""
    if destination.exists() and not destination.is_file():
        raise FileExistsError(
            errno.EEXIST, "it is no ordinary file, and is not replaced by one", str(destination)
        )
    partial, descriptor = claimed(destination, lambda path: _new_file(path, 0o666 if mode is None else mode))
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        with partial.open("rb+") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            partial.replace(destination)
        sync(destination.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def sync(folder: Path) -> None:
    """Make the folder's list of files durable, so that no later step is on disk before it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claimed(destination: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A name in the folder of ``destination`` that no other process takes, made and locked for as long as the
    descriptor is open; what was left there by processes that were killed goes."""
    remove_abandoned(destination.parent)
    while True:
        name = destination.name[:_MOST_LETTERS]
        partial = destination.with_name(f"{name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        descriptor = make(partial)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if partial.exists():  # else it was taken for abandoned before it was locked
            return partial, descriptor
        os.close(descriptor)


def _new_file(path: Path, mode: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def remove_abandoned(folder: Path) -> None:
    """Remove partial files and folders that no process holds the lock of."""
    for path in folder.glob("*.partial"):
        if not _PARTIAL.fullmatch(path.name) or not (path.is_file() or path.is_dir()):
            continue
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)
