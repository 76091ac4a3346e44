"""Zip files written by hand, so that everything in them can be wrong."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MODE = 0o644 << 16
SYMBOLIC_LINK = 0o120777 << 16


@dataclass(frozen=True)
class Entry:
    """One file: what its headers say, and its packed bytes. ``local``: what the local header says else."""

    name: str
    packed: bytes
    crc: int
    size: int
    method: int = 0
    flags: int = 0
    external: int = MODE
    extra: bytes = b""
    offset: int | None = None
    local: dict[str, Any] | None = None

    def header(self) -> bytes:
        """The 26 bytes that stand in both headers."""
        numbers = self.method, 0, 0x21, self.crc, len(self.packed), self.size
        return struct.pack("<5H3I2H", 20, self.flags, *numbers, len(self.raw), len(self.extra))

    @property
    def raw(self) -> bytes:
        return self.name.encode()

    def changed(self, **changes: Any) -> Entry:
        return replace(self, **changes)


def stored(name: str, data: bytes, **changes: Any) -> Entry:
    return replace(Entry(name, data, zlib.crc32(data), len(data)), **changes)


def deflated(name: str, data: bytes, **changes: Any) -> Entry:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(data) + deflate.flush()
    return replace(Entry(name, packed, zlib.crc32(data), len(data), zipfile.ZIP_DEFLATED), **changes)


def read(path: Path) -> tuple[dict[str, Entry], dict[str, bytes]]:
    """The entries of a good archive as they are, and the content of its files."""
    raw, entries, contents = path.read_bytes(), {}, {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            packed = raw[start : start + info.compress_size]
            entries[info.filename] = Entry(
                info.filename, packed, info.CRC, info.file_size, info.compress_type
            )
            contents[info.filename] = archive.read(info)
    return entries, contents


def write(entries: list[Entry], *, before: bytes = b"", comment: bytes = b"") -> bytes:
    """An archive of ``entries``; offsets count ``before``, which stands at its start."""
    body, directory = before, b""
    for entry in entries:
        offset = len(body) if entry.offset is None else entry.offset
        local = entry.changed(**entry.local or {})
        if entry.offset is None:
            body += b"PK\3\4" + local.header() + local.raw + local.extra + local.packed
        rest = struct.pack("<3H2I", 0, 0, 0, entry.external, offset)
        directory += b"PK\1\2\x14\3" + entry.header() + rest + entry.raw + entry.extra
    numbers = len(entries), len(entries), len(directory), len(body), len(comment)
    return body + directory + b"PK\5\6" + struct.pack("<4HIIH", 0, 0, *numbers) + comment
