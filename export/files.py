"""Archives, reports and folders that are there whole or not at all. Imports no torch."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from eideticnet import files
from eideticnet.export.errors import ArchiveError


@contextmanager
def whole_file(destination: Path, *, replace: bool = True) -> Iterator[BufferedRandom]:
    """As ``eideticnet.files.whole_file``; ``ArchiveError`` says why it can't be written, and that it may not
    ``replace`` a file with other content."""
    try:
        with files.whole_file(destination) as file:
            yield file
            file.flush()
            if not replace:
                _refuse_other_content(Path(file.name), destination)
    except OSError as error:
        raise ArchiveError(f"can't write {destination}: {error.strerror or error}") from error


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
    partial, descriptor = files.claimed(destination, _new_folder)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)
        if lonely:
            with suppress(OSError):  # where something came to stay
                destination.parent.rmdir()


def _new_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


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
    if not replace:
        _refuse_other_content(made, destination)
    made.replace(destination)


def _refuse_other_content(made: Path, destination: Path) -> None:
    if destination.exists() and not filecmp.cmp(made, destination, shallow=False):
        raise ArchiveError(
            f"{destination} is there already, with other content: --replace takes its place, or give another "
            "version (--model-version) or --store"
        )


def refuse_to_replace(destination: Path, *inputs: Path) -> None:
    """``ArchiveError`` if ``destination`` is one of the files that it is to be made from."""
    for path in inputs:
        if destination.exists() and path.exists() and destination.samefile(path):
            raise ArchiveError(f"{destination} would replace {path}, which is needed: name another file")
