"""Where data lies: in the folder that ``EIDETIC_DATA`` names, or in the user's cache, downloaded once."""

from __future__ import annotations

import fcntl
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eideticnet.errors import DataError

DATA = "EIDETIC_DATA"
"""Of the environment; ``--data`` sets it."""


@dataclass(frozen=True)
class Published:
    """A file that its makers publish, an ``archive`` or not, and its SHA-256."""

    url: str
    sha256: str
    archive: bool = False

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@contextmanager
def data_in(folder: str | None) -> Iterator[None]:
    """Let the environment name ``folder`` meanwhile, for processes that are started too; without one, what it
    names."""
    before = os.environ.get(DATA)
    try:
        if folder is not None:
            os.environ[DATA] = str(Path(folder).expanduser().absolute())
        data_folder()
        yield
    finally:
        os.environ.pop(DATA, None)
        os.environ |= {} if before is None else {DATA: before}


def data_folder() -> Path | None:
    """The folder that the environment names, if it does."""
    named = os.environ.get(DATA, "").strip()
    folder = Path(named).expanduser()
    if named and not folder.is_dir():
        raise DataError(f"{named}: there is no such folder; {DATA}, or --data, names the one that holds data")
    return folder if named else None


def found(places: Sequence[str], source: Published) -> Path:
    """The first of ``places`` that is in the user's folder, or else what is downloaded from ``source``: the
    file itself, or for an archive the same places inside it."""
    folder = data_folder()
    for place in places if folder else ():
        if (folder / place).exists():  # type: ignore[operator]
            return folder / place  # type: ignore[operator]
    where = f"{folder} holds no {' and no '.join(places)}" if folder else f"{DATA} and --data name no folder"
    unpacked = _fetched(source, where)
    if not source.archive:
        return unpacked
    inside = [unpacked / place for place in places if (unpacked / place).exists()]
    if not inside:
        raise DataError(f"{source.url} holds no {' and no '.join(places)}")
    return inside[0]


def _fetched(source: Published, why: str) -> Path:
    """The path of the file in the cache, or of the folder that an archive is unpacked to. Two processes that
    want it at the same time take turns."""
    import pooch  # late: who has data needs no library that fetches it
    import requests

    cache = Path(pooch.os_cache("eideticnet"))
    pooch.get_logger().setLevel(logging.WARNING)
    with _alone_in(cache):
        try:
            file = Path(pooch.retrieve(source.url, f"sha256:{source.sha256}", source.name, cache))
        except requests.exceptions.RequestException as error:
            reason = getattr(getattr(error, "response", None), "reason", None) or type(error).__name__
            raise DataError(
                f"{why}, and {source.url} can't be downloaded ({reason}): put it into a folder and name that "
                "with --data"
            ) from None
        except ValueError as error:
            if "hash" not in str(error):
                raise
            raise DataError(
                f"{source.url} is another file than was published, with SHA-256 {source.sha256}, and was not "
                "kept: try again, or get it elsewhere and name its folder with --data"
            ) from None
        return _unpacked(file) if source.archive else file


@contextmanager
def kept(name: str) -> Iterator[Path]:
    """Where in the user's cache something lies that takes long to make, for one process at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eideticnet" / name
    with _alone_in(cache):
        yield cache / "made"


def _unpacked(file: Path) -> Path:
    """The folder beside an archive that holds all that is in it."""
    folder, partial = file.with_name(f"{file.name}.unpacked"), file.with_name(f"{file.name}.partial")
    if not folder.exists():
        with tarfile.open(file) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
    return folder


@contextmanager
def _alone_in(cache: Path) -> Iterator[None]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".lock").open("w")
    except OSError as error:
        raise DataError(
            f"can't keep downloads in {cache}: {error.strerror}; XDG_CACHE_HOME names another folder"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
