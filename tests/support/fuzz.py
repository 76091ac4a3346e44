"""Requests that nobody should send: over HTTP and gRPC, seeded by hypothesis."""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st

KINDS = ["application/json", "application/octet-stream", "application/x-npy", "image/png", "image/jpeg"]
TEXT = st.text(max_size=12)
NUMBERS = st.floats() | st.integers() | st.booleans() | st.none()
VALUES = st.recursive(
    NUMBERS | TEXT, lambda v: st.lists(v, max_size=8) | st.dictionaries(TEXT, v, max_size=4), max_leaves=20
)
OPTIONS = st.dictionaries(
    st.sampled_from(["task", "threshold", "top_k", "probabilities", "deadline_ms"]), VALUES, max_size=3
)
ROWS = st.lists(NUMBERS | st.floats(-1, 1), min_size=5, max_size=7)


@st.composite
def json_bodies(draw: Any) -> bytes:
    data = {draw(st.sampled_from(["data", "instances", "x"])): draw(VALUES | ROWS | st.lists(ROWS))}
    return json.dumps({**data, **draw(OPTIONS)}).encode()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 6), np.float32))
    return file.getvalue()


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (3).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"\x08\0\0\0\0"
    rows = zlib.compress(bytes(8))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SOUND = [npy(), png(), bytes(24), b'{"data": [0, 0, 0, 0, 0, 0]}', b'{"instances": [[1, 2, 3, 4, 5, 6]]}']


@st.composite
def damaged(draw: Any) -> bytes:
    """A sound body of any payload with some bytes changed, put in, or cut off."""
    body = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


BODIES = st.binary(max_size=200) | json_bodies() | damaged()
LATIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
FIELDS = st.sampled_from(["task", "threshold", "top-k", "probabilities", "deadline-ms"])
HEADERS = st.dictionaries(FIELDS.map("eidetic-{}".format) | st.just("x-request-id"), LATIN, max_size=3)


@st.composite
def multiparts(draw: Any) -> tuple[str, bytes]:
    """A form of a few parts, now and then a broken one: its content type and body."""
    boundary, body = "edge", b""
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(["data", "body", "task", "top_k", "content_type"]))
        file = draw(st.sampled_from(["", '; filename="f"']))
        kind = draw(st.sampled_from(["", *(f"\r\nContent-Type: {k}" for k in KINDS)]))
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}{kind}\r\n\r\n'
        body += head.encode() + draw(BODIES) + b"\r\n"
    end = draw(st.sampled_from([b"--edge--\r\n", b"--edge--\r\n", b"--edge", b""]))
    return f"multipart/form-data; boundary={boundary}", body + end


@st.composite
def requests(draw: Any) -> tuple[str, dict[str, str], bytes]:
    """Of any payload: model, headers, body."""
    model = draw(st.sampled_from(["net", "picture"]))
    if draw(st.integers(0, 3)) == 0:
        kind, body = draw(multiparts())
    else:
        kind, body = draw(st.sampled_from(KINDS) | LATIN), draw(BODIES)
    return model, {"Content-Type": kind, **draw(HEADERS)}, body


GRPC_INPUTS = st.dictionaries(
    st.sampled_from(["data", "body", "content_type", "task", "top_k", "threshold", "deadline_ms"]) | TEXT,
    BODIES | st.sampled_from([k.encode() for k in KINDS]),
    max_size=4,
)
