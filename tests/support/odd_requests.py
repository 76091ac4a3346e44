"""Requests that nobody should send: over HTTP and gRPC, drawn by hypothesis."""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

FORM = "application/x-www-form-urlencoded"
KINDS = ["application/json", "application/octet-stream", "application/x-npy", "image/png", "image/jpeg"]
TEXT = st.text(max_size=12)
NUMBERS = st.floats() | st.integers() | st.booleans() | st.none()
VALUES = st.recursive(
    NUMBERS | TEXT, lambda v: st.lists(v, max_size=8) | st.dictionaries(TEXT, v, max_size=4), max_leaves=20
)
OPTIONS = st.dictionaries(
    st.sampled_from(["task", "threshold", "top_k", "probabilities", "deadline_ms"]), VALUES, max_size=3
)
ROWS = st.lists(NUMBERS | st.floats(-1, 1), min_size=5, max_size=7) | st.just([0.5] * 6)


@dataclass(frozen=True)
class Request:
    """A POST to the model's address. Header values are bytes: HTTP allows more of them than ASCII."""

    model: str
    kind: bytes
    headers: dict[str, bytes]
    body: bytes


@st.composite
def json_bodies(draw: Any) -> bytes:
    data = {draw(st.sampled_from(["data", "instances", "x"])): draw(VALUES | ROWS | st.lists(ROWS))}
    return json.dumps({**data, **draw(OPTIONS)}).encode()


@st.composite
def deep(draw: Any) -> bytes:
    """JSON of many levels, closed or not."""
    levels, start, end = draw(st.integers(1, 3000)), *draw(st.sampled_from(["[]", ('{"data":', "}")]))
    return (start * levels + "0" + end * (levels if draw(st.booleans()) else 0)).encode()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 6), np.float32))
    return file.getvalue()


@st.composite
def npy_files(draw: Any) -> bytes:
    """A .npy file whose header says what it likes; the data has any length."""
    types = ["<f4", ">f8", "<i8", "|b1", "|O", "|S3", "<U2", "<M8[s]", "<c8", "|V4", [("a", "<f4")], 7, ""]
    sizes = st.integers(0, 7) | st.sampled_from([-1, 2**31, 2**63, 10**30])
    shape = draw(st.lists(sizes, max_size=3).map(tuple) | st.just((6,)) | st.just("(6,)"))
    said = {"descr": draw(st.sampled_from(types)), "fortran_order": draw(NUMBERS), "shape": shape}
    said = {key: value for key, value in said.items() if draw(st.integers(0, 9))}
    header = repr(said) if draw(st.integers(0, 4)) else draw(TEXT)
    text = header.encode() + b"\n" * draw(st.integers(0, 2))
    version = draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0"]))
    width = 2 if version == b"\1\0" else 4
    length = draw(st.sampled_from([len(text)] * 5 + [0, len(text) + 1, 2**16 - 1]))
    return b"\x93NUMPY" + version + length.to_bytes(width, "little") + text + draw(st.binary(max_size=64))


def png(width: int = 3, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    rows = zlib.compress(bytes(8))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), 90).save(file, "JPEG")
    return file.getvalue()


PICTURES = [png(), jpeg(), png(2**31 - 1, 2**31 - 1)]
SOUND = [npy(), bytes(24), b'{"data": [0, 0, 0, 0, 0, 0]}', b'{"instances": [[1, 2, 3, 4, 5, 6]]}', *PICTURES]


@st.composite
def damaged(draw: Any, sound: list[bytes] = SOUND) -> bytes:
    """A sound body of any payload with some bits flipped, bytes put in, or its end cut off."""
    body = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body) - 1))
        body[at] ^= 1 << draw(st.integers(0, 7))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 3)) == 0 else body)


ANY = st.binary(max_size=200) | json_bodies() | damaged()
BODIES = {
    "application/json": json_bodies() | deep() | VALUES.map(json.dumps).map(str.encode) | ANY,
    "application/octet-stream": st.binary(min_size=24, max_size=24) | ANY,
    "application/x-npy": npy_files() | damaged([npy()]) | ANY,
    "image/png": damaged([png()]) | damaged(PICTURES) | ANY,
    "image/jpeg": damaged([jpeg()]) | damaged(PICTURES) | ANY,
}
SYMBOLS = [bytes([i]) for i in (*range(33, 127), *range(128, 256))]
LATIN = st.lists(st.sampled_from(SYMBOLS), max_size=20).map(b"".join)
"""What a header may hold: anything visible, ASCII or not."""
FIELDS = st.sampled_from(["task", "threshold", "top-k", "probabilities", "deadline-ms"])
VALID = [b"1", b"0.5", b"true", b"first", b"%66irst", b"%ff", b"-1", b"nan", b"4102444800000"]
OTHERS = ["x-request-id", "accept", "accept-encoding", "content-encoding", "content-disposition", "range",
          "cookie", "origin", "x-http-method-override", "traceparent"]  # fmt: skip
NAMES = FIELDS.map("eidetic-{}".format) | st.sampled_from(OTHERS)
HEADERS = st.dictionaries(NAMES, LATIN | st.sampled_from(VALID), max_size=3)


@st.composite
def multiparts(draw: Any) -> tuple[bytes, bytes]:
    """A form of a few parts, now and then a broken one: its content type and body."""
    body = b""
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(["data"] * 9 + ["body", "task", "top_k", "content_type"] * 4 + [""]))
        named = f'; name="{name}"' if draw(st.integers(0, 15)) != 7 else ""
        file = draw(st.sampled_from(["", '; filename="f"']))
        inner = draw(st.sampled_from(["", *(f"\r\nContent-Type: {k}" for k in KINDS)]))
        if draw(st.integers(0, 9)) == 0:
            inner += draw(st.sampled_from(
                [f"\r\nContent-Transfer-Encoding: {e}" for e in ("base64", "8bit", "binary", "7bit", "?")]
                + ["\r\nContent-Type: text/plain; charset=none", "\r\nContent-Length: 3", "\r\nno colon"]
            ))  # fmt: skip
        head = f"--edge\r\nContent-Disposition: form-data{named}{file}{inner}\r\n\r\n"
        body += head.encode() + draw(ANY) + b"\r\n"
    end = draw(st.sampled_from([b"--edge--\r\n"] * 3 + [b"--edge", b""]))
    says = [b"; boundary=edge"] * 16 + [b"", b"; boundary=", b"; boundary=edge; charset=none"]
    return b"multipart/form-data" + draw(st.sampled_from(says)), body + end


PIECES = [b"data", b"=", b"&", b"%", b"zz", b"%41", b"+", b";", b"task", b"1", b"\xff", b'{"data": [0]}']


@st.composite
def requests(draw: Any) -> Request:
    """Of any payload."""
    model, way = draw(st.sampled_from(["net", "picture"])), draw(st.integers(0, 9))
    if way < 2:
        kind, body = draw(multiparts())
    elif way == 2:
        kind, body = FORM.encode(), b"".join(draw(st.lists(st.sampled_from(PIECES), max_size=9)))
    elif way == 3:
        kind, body = draw(LATIN), draw(ANY)
    else:
        name = draw(st.sampled_from(KINDS))
        kind, body = name.encode(), draw(BODIES[name])
    return Request(model, kind, draw(HEADERS), body)


@st.composite
def grpc_inputs(draw: Any) -> dict[str, bytes]:
    """The same bodies as entries of the map, under names that mean something and others."""
    kind = draw(st.sampled_from(KINDS))
    found = {draw(st.sampled_from(["data", "data", "body"])): draw(BODIES[kind])}
    if draw(st.booleans()):
        found["content_type"] = kind.encode()
    names = st.sampled_from(["task", "top_k", "threshold", "deadline_ms", "probabilities", "data", "body"])
    rest = draw(st.dictionaries(names | TEXT, ANY | LATIN | st.sampled_from(VALID), max_size=3))
    return rest if draw(st.integers(0, 9)) == 0 else {**found, **rest}
