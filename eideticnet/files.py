"""Files that are there whole or not at all, and files that are read."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from eideticnet.errors import DataError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut. ``OSError`` where it
    would replace what is no file: a device would be gone for every user."""
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is no ordinary file, and is not replaced by one", str(path))
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def open_regular(path: Path) -> BufferedReader:
    """Open ``path`` for reading. ``DataError`` at once where it is there and is no regular file: a pipe would
    be waited for, and a device never ends."""
    path.stat()  # what is not there is the caller's to tell
    if path.is_file():
        # what it is now may be replaced before it is opened
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    kind = "a folder" if path.is_dir() else "a pipe" if path.is_fifo() else "a device or a socket"
    raise DataError(f"{path} is {kind}; expected a regular file")


def sync(folder: Path) -> None:
    """Make the folder's list of files durable, so that no later step is on disk before it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
