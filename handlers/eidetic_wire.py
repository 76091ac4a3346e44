"""Read TorchServe's batches in a few large reads.

Its own reader makes a system call for each length and each value, some fifty a request, and logs two lines
a batch that the front end drops: together half of a worker's time at 32 connections (``make bench-serving``).
Replaced in the worker's own process, for the one version that this was written for.
"""

from __future__ import annotations

import logging
import struct
import sys
from typing import Any

VERSION = "0.12.0"
_CHUNK = 1 << 20
_int = struct.Struct("!i").unpack_from
_END = -1


def install() -> bool:
    """Let TorchServe read by ``read_batch``, and log warnings alone; False where it is not ``VERSION``."""
    try:
        import ts
        from ts.protocol import otf_message_handler
    except ImportError:
        return False
    if ts.__version__ != VERSION or not hasattr(otf_message_handler, "_retrieve_inference_msg"):
        return False
    otf_message_handler._retrieve_inference_msg = read_batch
    logging.getLogger().setLevel(logging.WARNING)
    return True


def read_batch(connection: Any) -> list[dict[str, Any]]:
    """The requests of one batch, as TorchServe's own reader gives them; bodies are left as they are.

    The front end sends nothing more until the batch is answered, so there is nothing to keep."""
    data, requests, start = bytearray(), list[dict[str, Any]](), 0
    while True:
        chunk = connection.recv(_CHUNK)
        if not chunk:
            sys.exit(0)  # as TorchServe does: the front end is gone
        data += chunk
        try:
            while True:
                start, request = _request(data, start)
                if request is None:
                    if start != len(data):
                        raise ValueError(f"{len(data) - start} bytes after the end of a batch")
                    return requests
                requests.append(request)
        except struct.error:
            continue  # this request is not there as a whole


def _request(data: bytearray, at: int) -> tuple[int, dict[str, Any] | None]:
    """The request that begins at ``at``, and where it ends; None is the end of the batch.
    ``struct.error`` if more bytes are needed: every value is followed by at least one length."""
    length = _int(data, at)[0]
    if length == _END:
        return at + 4, None
    at += 4 + length
    request_id, headers, parameters = data[at - length : at], [], []
    while (length := _int(data, at)[0]) != _END:
        name, at = _value(data, at)
        value, at = _value(data, at)
        headers.append({"name": name, "value": value})
    at += 4
    while (length := _int(data, at)[0]) != _END:
        name, at = _value(data, at)
        kind, at = _value(data, at)
        value, at = _value(data, at)
        parameters.append({"name": name.decode(), "contentType": kind.decode(), "value": value})
    return at + 4, {"requestId": request_id, "headers": headers, "parameters": parameters}


def _value(data: bytearray, at: int) -> tuple[bytearray, int]:
    start = at + 4
    end = start + _int(data, at)[0]
    return data[start:end], end
