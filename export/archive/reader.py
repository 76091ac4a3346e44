"""Reading an archive, every file of it checked. Imports neither torch nor eideticnet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eideticnet.contract.bundle import Bundle, BundledTask
from eideticnet.export.archive.contents import Probes, check_contents, limit
from eideticnet.export.archive.members import read_members
from eideticnet.export.errors import NO_ARCHIVE, ArchiveError
from eideticnet.files import UnreadableError, open_regular


@dataclass(frozen=True)
class Archive:
    """What can be read of an archive without running anything in it."""

    path: Path
    bundle: Bundle
    probes: Probes

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def version(self) -> str:
        return self.bundle.model_version

    @property
    def tasks(self) -> tuple[BundledTask, ...]:
        return self.bundle.tasks


def read_archive(path: Path, *, revoked: bool = False) -> Archive:
    """Read and check a whole archive. ``ArchiveError`` names the file and what is wrong, also that its
    handler was revoked, unless ``revoked`` ones will do since nothing is to run."""
    return read_files(path, revoked=revoked)[0]


def read_files(path: Path, *, revoked: bool = False) -> tuple[Archive, dict[str, bytes]]:
    """The archive, and all of its files by name, every one checked."""
    check_there(path)
    try:
        members = read_members(path, limit)
        bundle, probes = check_contents(members, revoked=revoked)
    except ArchiveError as error:
        text = str(error)
        raise ArchiveError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    return Archive(path, bundle, probes), members


def check_there(path: Path) -> None:
    """``ArchiveError`` where ``path`` is no regular file, or none that can be read."""
    try:
        open_regular(path).close()
    except FileNotFoundError:
        raise ArchiveError(f"{path}: there is no such file; eidetic export makes archives") from None
    except OSError as error:
        said = error.strerror
        if isinstance(error, UnreadableError):
            run = (path / "network.json").is_file()
            said = "it is a run; eidetic export it first" if run else f"{said}; {NO_ARCHIVE}"
        raise ArchiveError(f"{path} can't be read: {said}") from error
