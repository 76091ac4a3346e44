"""Files and folders that are there whole or not at all. Imports neither torch nor eideticnet."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from export.errors import ArchiveError


@contextmanager
def whole_file(destination: Path) -> Iterator[BufferedRandom]:
    """A new file, to be written and read, that takes the place of ``destination`` once the block has ended
    well, and leaves nothing behind otherwise. ``ArchiveError`` says why it can't be written."""
    if destination.exists() and not destination.is_file():
        raise ArchiveError(f"{destination} is no ordinary file, and is not replaced by one")
    partial = _beside(destination)
    try:
        with partial.open("xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(destination)
    except OSError as error:
        raise ArchiveError(f"can't write {destination}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A new folder that becomes ``destination``, which must not exist, once the block has ended well,
    and leaves nothing behind otherwise."""
    partial = _beside(destination)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def refuse_to_replace(destination: Path, *inputs: Path) -> None:
    """``ArchiveError`` if ``destination`` is one of the files that it is to be made from."""
    for path in inputs:
        if destination.exists() and path.exists() and destination.samefile(path):
            raise ArchiveError(f"{destination} would replace {path}, which is needed: name another file")


def _beside(destination: Path) -> Path:
    """A name in the same folder that no other process takes."""
    return destination.with_name(f"{destination.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
