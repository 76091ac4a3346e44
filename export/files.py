"""Files and folders that are there whole or not at all, and files that are read. Imports neither torch nor
eideticnet."""

from __future__ import annotations

import fcntl
import filecmp
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path

from eideticnet.export.errors import ArchiveError

LARGEST = 8 << 30
"""Bytes above which nothing is read: an archive has 4 GiB at most, and what is larger is no file for us."""
_PARTIAL = re.compile(r".+\.\d+-[0-9a-f]{8}\.partial")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: Path, most: int = LARGEST) -> BufferedReader:
    """Open ``path`` for reading. ``ArchiveError`` at once where it is no regular file, or has more than
    ``most`` bytes: a pipe would be waited for, a device never ends, and neither can be read twice, once to
    check and once to use it."""
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


def _check_regular(path: Path, found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise ArchiveError(f"{path} is {kind}; expected a regular file")
    if found.st_size > most:
        raise ArchiveError(f"{path} has {found.st_size} bytes; expected {most} at most")


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file of at most ``most`` bytes; else ``ArchiveError``."""
    with read_regular(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)


@contextmanager
def whole_file(destination: Path, *, replace: bool = True) -> Iterator[BufferedRandom]:
    """A new file, to be written and read, that takes the place of ``destination`` once the block has ended
    well, and leaves nothing behind otherwise. ``ArchiveError`` says why it can't be written, and that it may
    not ``replace`` a file with other content."""
    if destination.exists() and not destination.is_file():
        raise ArchiveError(f"{destination} is no ordinary file, and is not replaced by one")
    partial = None
    try:
        partial, descriptor = _claimed(destination, _new_file)
        with os.fdopen(descriptor, "rb+") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            into_place(partial, destination, replace=replace)
    except OSError as error:
        raise ArchiveError(f"can't write {destination}: {error.strerror or error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """``ArchiveError`` where no file can be put into the folder of ``path``: before work is done for it."""
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ArchiveError(f"can't write {path}: {error.strerror or error}") from None


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A new folder that becomes ``destination``, which must not exist, once the block has ended well,
    and leaves nothing behind otherwise."""
    with scratch_folder(destination) as partial:
        yield partial
        partial.rename(destination)


@contextmanager
def scratch_folder(destination: Path) -> Iterator[Path]:
    """A new folder beside ``destination``, for what is on its way there. It does not stay."""
    lonely = not destination.parent.exists()
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial, descriptor = _claimed(destination, _new_folder)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)
        if lonely:
            with suppress(OSError):  # where something came to stay
                destination.parent.rmdir()


def _claimed(destination: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A name in the folder of ``destination`` that no other process takes, made and locked for as long as the
    descriptor is open; what was left there by processes that were killed goes."""
    _remove_abandoned(destination.parent)
    while True:
        partial = destination.with_name(f"{destination.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        descriptor = make(partial)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if partial.exists():  # else it was taken for abandoned before it was locked
            return partial, descriptor
        os.close(descriptor)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _remove_abandoned(folder: Path) -> None:
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


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """What the block writes into ``folder`` stays there only if it ends well."""
    before = set(folder.iterdir())
    try:
        yield
    except BaseException:
        for path in set(folder.iterdir()) - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def into_place(made: Path, destination: Path, *, replace: bool) -> None:
    """Let ``made`` become ``destination``; ``ArchiveError`` where a file with other content is there already
    and it may not ``replace`` that."""
    if not replace and destination.exists() and not filecmp.cmp(made, destination, shallow=False):
        raise ArchiveError(
            f"{destination} is there already, with other content: --replace takes its place, or give another "
            "version (--model-version) or --store"
        )
    made.replace(destination)


def refuse_to_replace(destination: Path, *inputs: Path) -> None:
    """``ArchiveError`` if ``destination`` is one of the files that it is to be made from."""
    for path in inputs:
        if destination.exists() and path.exists() and destination.samefile(path):
            raise ArchiveError(f"{destination} would replace {path}, which is needed: name another file")
