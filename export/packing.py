"""Zip files that are the same byte for byte whenever their contents are, written whole or not at all.

Nothing is compressed: weights hardly are smaller then, and what zlib makes differs between its versions.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from export.errors import ArchiveError
from export.hashing import file_sha256

_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(files: Mapping[str, bytes], destination: Path, sha256: str | None = None) -> None:
    """Write ``files`` by name. ``ArchiveError`` if that can't be done, or if ``sha256`` is given and the
    result has another one; ``destination`` is as it was then."""
    partial = destination.with_name(destination.name + ".partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                archive.writestr(_entry(name), files[name])
        if sha256 is not None and file_sha256(partial) != sha256:
            raise ArchiveError(f"what was put together for {destination} is not what it should be")
        partial.replace(destination)
    except OSError as error:
        raise ArchiveError(f"can't write {destination}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry
