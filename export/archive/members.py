"""Zip files with one layout: the one that ``write_members`` writes. Whatever else a zip may hold is refused.

A zip file says most things twice, in a local header before each file and in a directory at the end,
and readers differ in which one they believe: TorchServe's reads the first. Here both must agree, the
files must lie one behind the other without a gap, and nothing may stand before, between or after.
So there is one way to read an archive, and what was checked is what the server unpacks.
"""

from __future__ import annotations

import hashlib
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISLNK
from typing import BinaryIO

from eideticnet.export.errors import NO_ARCHIVE, ArchiveError
from eideticnet.export.files import whole_file
from eideticnet.files import open_regular

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LOCAL, _CENTRAL, _END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_LOCAL_SIZE, _CENTRAL_SIZE, _END_SIZE = 30, 46, 22
_VERSION_AND_UNIX = b"\x14\3"  # what wrote it: version 2.0 of the format, file modes of Unix
_MODE = 0o644 << 16
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_ENCRYPTED = 1
_MOST_FILES, _LARGEST_DIRECTORY = 1000, 1 << 20
_LARGEST = (1 << 32) - 1  # of an archive, and of each file in it
# Archives of schema 1.1 are deflated, to about half; what inflates much more is no network.
_HIGHEST_RATIO, _FREE_OF_RATIO = 100, 1 << 20


def write_members(
    members: Mapping[str, bytes], destination: Path, sha256: str | None = None, *, replace: bool = True
) -> None:
    """Write ``members`` by name, whole or not at all; equal members give equal bytes. ``ArchiveError`` if
    ``sha256`` is given and the result has another one, or it may not ``replace`` another file.

    Stored, not deflated: weights hardly shrink, and what deflating gives depends on zlib's version.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(destination, replace=replace) as file:
            with zipfile.ZipFile(file, "w", _STORED, allowZip64=False) as archive:
                for name in sorted(members):
                    entry = zipfile.ZipInfo(name, _EPOCH)
                    entry.create_system, entry.external_attr = 3, _MODE
                    archive.writestr(entry, members[name])
            file.seek(0)
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ArchiveError(f"what was put together for {destination} is not what it should be")
    except (OSError, zipfile.LargeZipFile) as error:
        raise ArchiveError(f"can't write {destination}: {error}") from error


def read_members(path: Path, limit: Callable[[str], int], otherwise: str = NO_ARCHIVE) -> dict[str, bytes]:
    """The files in the archive ``path`` by name; ``limit`` gives the most bytes that a name may have, and
    ``otherwise`` is what an error says of a file that is none of ours.

    Nothing is inflated, and no more than the directory is read, before all that is declared was
    checked. Raises ``ArchiveError`` with the reason, without the path.
    """
    try:
        with open_regular(path, _LARGEST) as file:
            return {entry.name: _read(file, entry) for entry in check_members(file, limit, otherwise)}
    except OSError as error:
        raise ArchiveError(f"can't be read: {error.strerror}") from error


def check_members(file: BinaryIO, limit: Callable[[str], int], otherwise: str = NO_ARCHIVE) -> list[_Entry]:
    """All that the directory of an archive declares, checked before more than the directory is read."""
    try:
        start, entries = _directory(file)
        _check_names([e.name for e in entries])
        for entry in entries:
            entry.check(limit(entry.name))
        _check_sizes(entries)
        _check_places(entries, start)
    except ArchiveError as error:
        raise ArchiveError(f"{error}; {otherwise}") from error
    return entries


@dataclass(frozen=True)
class _Entry:
    """What the directory says of one file. ``header``: the 26 bytes that the local header must repeat."""

    name: str
    raw_name: bytes
    header: bytes
    wrote: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    internal: int
    external: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + _LOCAL_SIZE + len(self.raw_name) + self.packed

    def check(self, limit: int) -> None:
        """Raise ``ArchiveError`` if it is of a kind that we never write, or larger than ``limit``."""
        if S_ISLNK(self.external >> 16):
            raise ArchiveError(f"{self.name!r} is a symbolic link")
        if self.flags & _ENCRYPTED:
            raise ArchiveError(f"{self.name!r} is encrypted")
        if self.method not in (_STORED, _DEFLATED):
            raise ArchiveError(f"{self.name!r} has the unknown compression method {self.method}")
        if self.size > limit:
            raise ArchiveError(f"{self.name!r} declares {self.size} bytes, more than the {limit} allowed")
        if self.method == _STORED and self.size != self.packed:
            raise ArchiveError(f"{self.name!r} is stored, but with two sizes: {self.size}, {self.packed}")
        if (self.wrote, self.flags, self.internal, self.external) != (_VERSION_AND_UNIX, 0, 0, _MODE):
            raise ArchiveError(f"{self.name!r} has flags or attributes that our archives never have")


def _directory(file: BinaryIO) -> tuple[int, list[_Entry]]:
    """Where the directory at the end starts, and its entries."""
    size = file.seek(0, 2)
    _check_end(file, size)
    file.seek(size - _END_SIZE)
    disk, first, here, count, length, start, comment = struct.unpack("<4HIIH", file.read(_END_SIZE)[4:])
    if (disk, first, comment) != (0, 0, 0) or here != count:
        raise ArchiveError("it is one of several volumes, or its end record was changed")
    if count > _MOST_FILES or length > _LARGEST_DIRECTORY:
        raise ArchiveError(f"its directory lists {count} files in {length} bytes, which is too much")
    if start + length + _END_SIZE != size:
        raise ArchiveError("its directory is not where the end record says: something was put before it")
    file.seek(start)
    data, entries = memoryview(file.read(length)), list[_Entry]()
    for _ in range(count):
        data, entry = _first(data)
        entries.append(entry)
    if data:
        raise ArchiveError("its directory holds more than it lists")
    return start, entries


def _check_end(file: BinaryIO, size: int) -> None:
    """Refuse a file that doesn't end with an end record."""
    tail = min(size, _END_SIZE + 0xFFFF)
    file.seek(size - tail)
    found = file.read(tail).rfind(_END)
    if found < 0:
        raise ArchiveError("it is no zip file, or it was cut short: its end record is missing")
    if tail - found < _END_SIZE:
        raise ArchiveError("it was cut short, inside its end record")
    if tail - found > _END_SIZE:
        raise ArchiveError(f"{tail - found - _END_SIZE} bytes follow its end")


def _first(data: memoryview) -> tuple[memoryview, _Entry]:
    """What follows the first entry of the directory ``data``, and that entry."""
    if len(data) < _CENTRAL_SIZE or data[:4] != _CENTRAL:
        raise ArchiveError("its directory is damaged")
    header, wrote = bytes(data[6:32]), bytes(data[4:6])
    _, flags, method, _, _, crc, packed, size, length, extra = struct.unpack("<5H3I2H", header)
    comment, disk, internal, external, offset = struct.unpack("<3H2I", data[32:_CENTRAL_SIZE])
    raw_name, rest = bytes(data[_CENTRAL_SIZE:][:length]), data[_CENTRAL_SIZE + length :]
    name = raw_name.decode("utf-8", "backslashreplace")
    if _LARGEST in (size, packed, offset):
        raise ArchiveError(f"{name[:200]!r} is in zip64 form; our archives are smaller than 4 GiB")
    if extra or comment or disk:
        raise ArchiveError(f"{name[:200]!r} has extra fields or a comment, which our archives never have")
    numbers = flags, method, crc, packed, size, internal, external, offset
    return rest, _Entry(name, raw_name, header, wrote, *numbers)


def _check_names(names: Sequence[str]) -> None:
    """Refuse names that lead out of a folder, and two that a file system could take for one."""
    for name in names:
        parts = name.split("/")
        if "\\" in name or ":" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
            raise ArchiveError(f"{name[:200]!r} is no plain relative path, so it could be written anywhere")
    seen: dict[str, str] = {}
    for name in names:
        form = unicodedata.normalize("NFKC", name).casefold()
        if form in seen:
            raise ArchiveError(f"{name!r} is a duplicate of {seen[form]!r}, at least on some file systems")
        seen[form] = name


def _check_sizes(entries: Sequence[_Entry]) -> None:
    size, packed = sum(e.size for e in entries), sum(e.packed for e in entries)
    if size > _LARGEST or size > _HIGHEST_RATIO * packed + _FREE_OF_RATIO:
        raise ArchiveError(f"it is a zip bomb: {packed} bytes that declare to become {size}")


def _check_places(entries: Sequence[_Entry], start: int) -> None:
    """The files must fill what lies before the directory, in its order, without gap or overlap."""
    position = 0
    for entry in entries:
        if entry.offset != position:
            what = "overlaps" if entry.offset < position else "does not begin at the end of"
            raise ArchiveError(f"{entry.name!r} {what} the file before it")
        position = entry.end
    if position != start:
        raise ArchiveError("its files do not end where its directory begins")


def _read(file: BinaryIO, entry: _Entry) -> bytes:
    """The content of ``entry``, at most as many bytes as it declares."""
    file.seek(entry.offset)
    header = _LOCAL + entry.header + entry.raw_name
    if file.read(len(header)) != header:
        raise ArchiveError(f"{entry.name!r}: the header before the file disagrees with the directory")
    data = file.read(entry.packed)
    if entry.method == _DEFLATED:
        data = _inflate(data, entry)
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise ArchiveError(f"{entry.name!r} is damaged; copy or export the archive again")
    return data


def _inflate(data: bytes, entry: _Entry) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        result = inflater.decompress(data, entry.size + 1)
    except zlib.error as error:
        raise ArchiveError(f"{entry.name!r} is damaged: {error}") from error
    if len(result) > entry.size:
        raise ArchiveError(f"it is a zip bomb: {entry.name!r} inflates to more than the size it declares")
    if not inflater.eof or inflater.unused_data:
        raise ArchiveError(f"{entry.name!r} is damaged: its packed data ends too early or too late")
    return result
