"""Files that are written whole or not at all; JSON files with a fixed meaning, read strictly."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from eideticnet.export.archive.contract import parse_json
from eideticnet.export.errors import ArchiveError
from eideticnet.export.files import read_bytes
from eideticnet.serving.errors import Unavailable

UNFINISHED = ".new-"
"""How the names of files begin that are being written."""
LARGEST = 16 << 20
"""Bytes that a JSON file in a home may have."""


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``: after a crash it holds the old bytes or the new ones, never a part. Its
    folder is not made: one that is gone may have been moved, and be put back. No device is replaced, which
    would be gone for every user."""
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


class JsonFile(BaseModel):
    """What a JSON file holds: the fields of the subclass, no others, each of its own type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file's content; ``Unavailable`` names the file and the first thing wrong with it."""
        try:
            data = read_bytes(path, LARGEST)
            found = cls.model_validate_json(data)
            parse_json(data, str(path))  # which alone refuses a key that is there twice
            return found
        except ArchiveError as error:
            raise Unavailable(str(error)) from None
        except OSError as error:
            raise Unavailable(f"{path} can't be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise Unavailable(f"{path} is damaged: {where}: {first['msg']}") from None

    def write(self, path: Path, mode: int = 0o644) -> None:
        write_whole(path, self.model_dump_json(indent=1, by_alias=True).encode() + b"\n", mode)
