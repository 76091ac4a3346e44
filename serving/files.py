"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from eideticnet.serving.errors import Unavailable

UNFINISHED = ".new-"
"""How the names of files begin that are being written."""


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: after a crash it holds the old bytes or the new ones, never a part. Its
    folder is not made: one that is gone may have been moved, and be put back. No device is replaced, which
    would be gone for everybody."""
    try:
        if path.is_char_device() or path.is_block_device():
            raise FileExistsError(errno.EEXIST, "it is a device", str(path))
        descriptor, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(f"{path} can't be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """The new name must survive a power failure too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
