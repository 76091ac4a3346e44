"""Files that are written whole or not at all; JSON files with a fixed meaning, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from eideticnet import files
from eideticnet.contract.parts import hides, told
from eideticnet.export.archive.contract import parse_json
from eideticnet.export.errors import ArchiveError
from eideticnet.serving.errors import Unavailable

LARGEST = 16 << 20
"""Bytes that a JSON file in a home may have."""


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """As ``eideticnet.files.write_whole``; ``Unavailable`` where it fails. A folder that
    is gone is not made: it may have been moved, and be put back."""
    try:
        if path.is_fifo():  # which would keep clients from their keys
            path.unlink()
        files.write_whole(path, data, mode)
    except OSError as error:
        raise Unavailable(f"{path} can't be written: {error.strerror}") from error


class JsonFile(BaseModel):
    """What a JSON file holds: the fields of the subclass, no others, each of its own type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file's content; ``Unavailable`` names the file and the first thing wrong with it."""
        try:
            held = parse_json(files.read_regular(path, LARGEST), str(path))
            return cls.model_validate(held)
        except ArchiveError as error:
            raise Unavailable(f"{path} is no strict JSON" if hides(cls) else str(error)) from None
        except OSError as error:
            raise Unavailable(f"{path} can't be read: {error.strerror}") from error
        except ValidationError as error:
            raise Unavailable(f"{path} is damaged: {told(error, cls, held)}") from None

    def write(self, path: Path, mode: int = 0o644) -> None:
        write_whole(path, self.model_dump_json(indent=1, by_alias=True).encode() + b"\n", mode)
