"""Deltas: what one archive has that an earlier one has not, and how to make the one from the other.

A file is a sequence of pieces, tensors and what lies between them. A piece that the old archive
holds too is named by its SHA-256. So is the part of a tensor that is as it was, as where a newcomer's rows
were written into a page. The rest is stored. Applied to just that old archive, a delta gives
the new one byte for byte; to any other, or damaged, it gives an error and nothing. Imports neither
torch nor eideticnet.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field

from eideticnet.contract.parts import Many
from eideticnet.export.archive.contract import checked, parse_json
from eideticnet.export.archive.members import read_members, write_members
from eideticnet.export.archive.reader import read_files
from eideticnet.export.errors import NO_DELTA, ArchiveError
from eideticnet.export.files import refuse_to_replace
from eideticnet.files import open_regular
from eideticnet.hashing import file_hash

SCHEMA = "1.1.0"
_HEADER, _STORED = "delta.json", "new.bin"
_LARGEST = 64 << 20, (1 << 32) - 1
_LEAST, _LEAST_PART = 64, 256
"""Bytes below which naming a piece, or a part of one, costs more than storing it."""
_GROWTH = 16
"""How many times the bytes of old archive and delta together a new one may have unless told otherwise: each
prefix graph repeats what it has in common with the others."""


class _Part(BaseModel):
    """Bytes ``start`` to ``end`` of the piece with this SHA-256; since 1.1.0."""

    model_config = ConfigDict(strict=True)
    of: str
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=0)]


class _File(BaseModel):
    """A file of the new archive: pieces by SHA-256, parts of such, and numbers of bytes of what is stored."""

    model_config = ConfigDict(strict=True)
    name: str
    pieces: Many[str | _Part | Annotated[int, Field(ge=0)]]


class _Header(BaseModel):
    """Which archive a delta makes of which."""

    model_config = ConfigDict(strict=True)
    schema_version: str = Field(alias="schema", pattern=r"^1\.", description="schema 1")
    old: str
    new: str
    files: Many[_File]


def write_delta(old: Path, new: Path, destination: Path) -> None:
    """Write what ``new`` adds to ``old``, whole or not at all."""
    refuse_to_replace(destination, old, new)
    pool, stored, files = _pool(old), bytearray(), []
    tensors = {(name, len(piece)): piece for name, piece in _named_pieces(old) if name}
    for file, data in read_files(new)[1].items():
        pieces = list[str | int | dict[str, str | int]]()
        for name, piece in _pieces(file, data):
            digest, before = sha256(piece).hexdigest(), tensors.get((name, len(piece)))
            if digest in pool:
                pieces.append(digest)
                continue
            for start, end, same in _runs(before, piece):
                if same and before is not None:
                    pieces.append({"of": sha256(before).hexdigest(), "start": start, "end": end})
                else:
                    pieces.append(end - start)
                    stored += piece[start:end]
        files.append({"name": file, "pieces": pieces})
    header = {"schema": SCHEMA, "old": file_hash(old), "new": file_hash(new), "files": files}
    write_members({_HEADER: json.dumps(header).encode(), _STORED: bytes(stored)}, destination)


def apply_delta(old: Path, delta: Path, destination: Path, most: int | None = None) -> None:
    """Make the new archive from ``old`` and ``delta``, whole or not at all. ``ArchiveError`` where the
    delta was made for another archive, is damaged, or asks for files of more than ``most`` bytes."""
    header, stored = _read(delta)
    pool = _pool(old)
    if file_hash(old) != header.old:
        raise ArchiveError(f"{delta} was made for another archive than {old}")
    pieces = [piece for file in header.files for piece in file.pieces]
    for piece in pieces:
        named = piece.of if isinstance(piece, _Part) else piece
        if isinstance(named, str) and named not in pool:
            raise ArchiveError(f"{delta} needs a piece that {old} does not hold")
        if isinstance(piece, _Part) and not piece.start <= piece.end <= len(pool[piece.of]):
            raise ArchiveError(f"{delta} needs more of a piece than {old} holds")
    size = sum(_size(piece, pool) for piece in pieces)
    most = _GROWTH * (old.stat().st_size + delta.stat().st_size) if most is None else most
    if size > most:
        raise ArchiveError(f"{delta} asks for {size} bytes, more than the {most} allowed; see --max-bytes")
    rest = io.BytesIO(stored)
    files = {
        file.name: b"".join(rest.read(p) if isinstance(p, int) else _named(p, pool) for p in file.pieces)
        for file in header.files
    }
    write_members(files, destination, sha256=header.new)


def _named(piece: str | _Part, pool: Mapping[str, bytes]) -> bytes:
    return pool[piece] if isinstance(piece, str) else pool[piece.of][piece.start : piece.end]


def _size(piece: str | int | _Part, pool: Mapping[str, bytes]) -> int:
    if isinstance(piece, _Part):
        return piece.end - piece.start
    return piece if isinstance(piece, int) else len(pool[piece])


def _pool(archive: Path) -> dict[str, bytes]:
    """All pieces of an archive that are worth naming, by their SHA-256."""
    return {sha256(piece).hexdigest(): piece for _, piece in _named_pieces(archive) if len(piece) >= _LEAST}


def _named_pieces(archive: Path) -> Iterator[tuple[str, bytes]]:
    for name, data in read_files(archive, revoked=True)[1].items():  # nothing of it runs
        yield from _pieces(name, data)


def _pieces(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """``data`` cut before and after each of its tensors, which have names; "" for what lies between."""
    at = 0
    for label, tensor in _tensors(name, data):
        start = data.find(tensor, at)
        if len(tensor) >= _LEAST and start >= 0:
            if start > at:
                yield "", data[at:start]
            yield label, tensor
            at = start + len(tensor)
    if at < len(data):
        yield "", data[at:]


def _runs(before: bytes | None, after: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where ``after`` is as ``before``, of the same length, for so many bytes that it is worth naming, and
    where not, in turn."""
    at = 0
    if before is not None:
        one, other = (np.frombuffer(data, np.uint8) for data in (before, after))
        ends = [0, *(np.flatnonzero(np.diff(one == other)) + 1).tolist(), len(after)]
        for start, end in pairwise(ends):
            if end - start >= _LEAST_PART and before[start] == after[start]:
                if start > at:
                    yield at, start, False
                yield start, end, True
                at = end
    if at < len(after):
        yield at, len(after), False


def _tensors(name: str, data: bytes) -> list[tuple[str, bytes]]:
    """Name and bytes of each tensor in a file, in the order in which they stand there."""
    if name.endswith(".onnx"):
        return [(t.name, bytes(t.raw_data)) for t in onnx.load_model_from_string(data).graph.initializer]
    if name.endswith(".safetensors"):
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        spans = sorted((*tensor["data_offsets"], name) for name, tensor in header.items())
        return [(name, data[start + a : start + b]) for a, b, name in spans]
    return []


def _read(delta: Path) -> tuple[_Header, bytes]:
    """Header and stored bytes."""
    try:
        with open_regular(delta) as file:
            most = os.fstat(file.fileno()).st_size  # its files are stored, so none is larger
    except OSError as error:
        raise ArchiveError(f"{delta} can't be read: {error.strerror}") from error
    try:
        members = read_members(delta, lambda name: min(most, _LARGEST[name == _STORED]), NO_DELTA)
        if sorted(members) != [_HEADER, _STORED]:
            raise ArchiveError(f"it holds {sorted(members)}; {NO_DELTA}")
        header = checked(_Header, parse_json(members[_HEADER], _HEADER), _HEADER)
    except ArchiveError as error:
        raise ArchiveError(f"{delta}: {error}") from error
    size = sum(p for f in header.files for p in f.pieces if isinstance(p, int))
    if len(members[_STORED]) != size:
        raise ArchiveError(f"{delta}: {_STORED} has not the {size} bytes that {_HEADER} tells of")
    return header, members[_STORED]
