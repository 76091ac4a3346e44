"""Speak TorchServe's protocol in a few large reads and one write a batch.

Its own code makes a system call for each length and each value, some fifty a request, keeps each request in
several objects, and logs lines that the front end drops: together more than half of a worker's time at 32
connections (``make bench-serving``). Replaced in the worker's own process, for the one version that this was
written for; under any other, ``EideticHandler.handle`` is called as usual.
"""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from eidetic_runtime.reply import JSON_HEADERS, Reply, Row

log = logging.getLogger("eidetic.wire")

VERSION = "0.12.0"
_CHUNK = 1 << 20
_int = struct.Struct("!i").unpack_from
_END = -1
_ENDS = b"\xff" * 8
"""How every batch ends: the end of the last request's parameters, and that of the requests."""


def install() -> bool:
    """Let TorchServe's worker read by ``read_batch`` and answer by ``predict``, and log warnings alone;
    False where it is not ``VERSION``."""
    try:
        import ts
        from ts import service
        from ts.protocol import otf_message_handler
    except ImportError:
        return False
    if ts.__version__ != VERSION or not hasattr(otf_message_handler, "_retrieve_inference_msg"):
        return False
    otf_message_handler._retrieve_inference_msg = read_batch
    service.Service.predict = predict
    logging.getLogger().setLevel(logging.WARNING)
    return True


def read_batch(connection: Any) -> list[Row]:
    """The requests of one batch: the id, headers and fields of each, as TorchServe's ``Service`` makes them
    of what it read, bodies left as they are.

    The front end sends nothing more until the batch is answered, so there is nothing to keep."""
    data, requests, start = bytearray(), _Requests(), 0
    while True:
        chunk = connection.recv(_CHUNK)
        if not chunk:
            sys.exit(0)  # as TorchServe does: the front end is gone
        data += chunk
        if not data.endswith(_ENDS) and len(data) > 4:
            continue
        try:
            while (found := requests.read(data, start)) is not None:
                start = found
        except struct.error:
            continue  # these bytes are within a value, and the request is not there as a whole
        if len(data) != start + 4:
            raise ValueError(f"{len(data) - start - 4} bytes after the end of a batch")
        return requests.rows


class _Requests:
    """Reads ``rows`` one by one. Headers that are the same bytes as those of the request before, as they are
    from one client that sends raw numbers, are not read again, and are the same object."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._head, self._headers, self._name = b"", dict[str, Any](), ""

    def read(self, data: bytearray, at: int) -> int | None:
        """Read the request that begins at ``at``; where it ends, None at the end of the batch.
        ``struct.error`` if more bytes are needed: every value is followed by at least one length."""
        if _int(data, at)[0] == _END:
            return None
        request_id, at = _value(data, at)
        if self._head and data.startswith(self._head, at):
            value, end = _value(data, at + len(self._head))
            if _int(data, end)[0] == _END:
                self.rows.append((request_id.decode(), self._headers, {self._name: value}))
                return end + 4
        sent, start = list[tuple[str, str]](), at
        while _int(data, at)[0] != _END:
            name, at = _value(data, at)
            value, at = _value(data, at)
            sent.append((name.decode(), value.decode()))
        at, fields, headers = at + 4, dict[str, Any](), dict[str, Any]()
        while _int(data, at)[0] != _END:
            name, at = _value(data, at)
            kind, at = _value(data, at)
            if not fields:
                head = data[start:at]
            value, at = _value(data, at)
            if fields.get(key := name.decode(), value) != value:
                key += " (given again, differently)"  # which is the name of nothing, and so refused
            fields[key], headers[key] = value, {"content-type": kind.decode()}
        headers.update(sent)
        if len(fields) == 1:
            self._head, self._headers, self._name = bytes(head), headers, key
        self.rows.append((request_id.decode(), headers, fields))
        return at + 4


def _value(data: bytearray, at: int) -> tuple[bytearray, int]:
    start = at + 4
    end = start + _int(data, at)[0]
    if end > len(data):
        raise struct.error("more bytes are needed")
    return data[start:end], end


def predict(service: Any, rows: list[Row]) -> bytes:
    """Answer a batch, then count and log it: the front end has its answers while they are counted, and
    nothing is left to send."""
    model = service._entry_point.__self__.model
    try:
        replies, batch = model.answer(rows)
    except Exception as error:
        log.exception("a batch failed")
        out_of_memory = isinstance(error, MemoryError)
        status, message = (507, "Out of resources") if out_of_memory else (503, "Prediction failed")
        failed = [Reply(b"error", status) for _ in rows]
        service.cl_socket.sendall(encoded(rows, failed, status, message))
        return b""
    service.cl_socket.sendall(encoded(rows, replies))
    model.telemetry.batch(batch)
    return b""


def encoded(
    rows: Sequence[Row], replies: Sequence[Reply], status: int = 200, message: str = "Prediction success"
) -> bytes:
    """The answer to a batch: of each request its id, content type, status, other headers and body."""
    parts = [_written(status), _text(message)]
    for (request_id, _, _), reply in zip(rows, replies, strict=True):
        parts.append(_text(request_id))
        parts.append(_PLAIN if reply.status == 200 and reply.headers is JSON_HEADERS else _head(reply))
        parts.append(_written(len(reply.body)))
        parts.append(reply.body)
    parts.append(_written(_END))
    return b"".join(parts)


def _head(reply: Reply) -> bytes:
    headers = dict(reply.headers)
    parts = [_text(headers.pop("content-type", "")), _written(reply.status)]
    parts.append(_text("" if reply.status == 200 else HTTPStatus(reply.status).phrase))
    parts.append(_written(len(headers)))
    parts += [_text(part) for header in headers.items() for part in header]
    return b"".join(parts)


def _text(text: str) -> bytes:
    data = text.encode()
    return _written(len(data)) + data


_written = struct.Struct("!i").pack
_PLAIN = _head(Reply(b""))
