"""One request as it comes in over HTTP: its headers, its body read within the limit, and a form's parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from eidetic_runtime.reply import Row
from eideticnet.serving.errors import MOST_BYTES, too_large
from eideticnet.serving.ray.told import RefusedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_SECONDS = 30.0
"""For the rest of a body that does not come at once."""
_PARTS = 64
"""Of a form; there are six that mean anything."""


def headers_of(scope: Scope) -> dict[str, str]:
    """By name in lower case; of one that is repeated the last counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def body_of(headers: Mapping[str, str], receive: Receive) -> bytes:
    """The whole body, of which no more than ``MOST_BYTES`` is ever held."""
    stated = headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > MOST_BYTES:
        raise _too_large(stated)
    message = await receive()
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        return _fitting(body)
    try:
        async with asyncio.timeout(_SECONDS):
            return await _rest(message, receive)
    except TimeoutError:
        told = f"did not come within {_SECONDS:.0f} s"
        raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, "body", told) from None


async def _rest(message: MutableMapping[str, Any], receive: Receive) -> bytes:
    pieces, size = list[bytes](), 0
    while True:
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MOST_BYTES:
            raise _too_large(f"more than {MOST_BYTES}")
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()


def _fitting(body: bytes) -> bytes:
    if len(body) > MOST_BYTES:
        raise _too_large(str(len(body)))
    return body


def _too_large(size: str) -> RefusedError:
    error = too_large(size)["error"]
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error["field"], error["message"])


def row_of(headers: dict[str, str], body: bytes) -> Row:
    """The request as a model reads it: the body as it is, or the parts of a form as fields."""
    kind = headers.get("content-type", "")
    sort = kind.partition(";")[0].strip().lower()
    name = headers.get("x-request-id", "")
    if sort == "multipart/form-data":
        return _form(name, headers, _parts(kind, body))
    if sort == "application/x-www-form-urlencoded":
        return _form(name, headers, _pairs(body))
    return name, headers, {"body": body}


def _form(name: str, headers: dict[str, str], parts: list[tuple[str, str, bytes]]) -> Row:
    fields, kinds = dict[str, Any](), dict[str, Any]()
    for field, kind, value in parts:
        if fields.get(field, value) != value:
            raise _no_form(f"gives {field[:100]!r} twice, differently")
        fields[field], kinds[field] = value, {"content-type": kind}
    if not fields:
        raise _no_form("has no part")
    return name, {**kinds, **headers}, fields


def _pairs(body: bytes) -> list[tuple[str, str, bytes]]:
    try:
        found = parse_qsl(body.decode("ascii"), True, True, max_num_fields=_PARTS, errors="surrogateescape")
    except ValueError as error:
        raise _no_form(f"can't be read: {error}") from None
    return [(name, "", value.encode("utf-8", "surrogateescape")) for name, value in found]


class _Part:
    """One part of a form, as its bytes come in."""

    def __init__(self) -> None:
        self.header, self.value, self.data = bytearray(), bytearray(), bytearray()
        self.headers: dict[str, bytes] = {}

    def end_header(self) -> None:
        self.headers[self.header.decode("latin-1").strip().lower()] = bytes(self.value).strip()
        self.header.clear()
        self.value.clear()

    def named(self) -> tuple[str, str, bytes]:
        kind, options = parse_options_header(self.headers.get("content-disposition"))
        name = options.get(b"name")
        if kind.lower() != b"form-data" or not name:
            raise _no_form("has a part without a name")
        stated = self.headers.get("content-type", b"").decode("latin-1")
        return name.decode("utf-8", "replace"), stated, bytes(self.data)


def _parts(kind: str, body: bytes) -> list[tuple[str, str, bytes]]:
    """Name, content type and bytes of each part."""
    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary:
        raise _no_form("names no boundary")
    found, ended = list[_Part](), list[bool]()

    def begin() -> None:
        if len(found) == _PARTS:
            raise _no_form(f"has more than {_PARTS} parts")
        found.append(_Part())

    callbacks: Any = {
        "on_part_begin": begin,
        "on_part_data": lambda data, start, end: found[-1].data.extend(data[start:end]),
        "on_header_field": lambda data, start, end: found[-1].header.extend(data[start:end]),
        "on_header_value": lambda data, start, end: found[-1].value.extend(data[start:end]),
        "on_header_end": lambda: found[-1].end_header(),
        "on_end": lambda: ended.append(True),
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _no_form(f"can't be read: {error}") from None
    if not ended:
        raise _no_form("ends before its last boundary")
    return [part.named() for part in found]


def _no_form(what: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, "body", f"is a form that {what}")
