"""Bodies that came packed (``Content-Encoding``), unpacked within the limit of those that did not."""

from __future__ import annotations

import zlib
from typing import Any

from eidetic_runtime.errors import BadRequest

MOST_BYTES = 6_553_500
"""What a server takes of a body as it is."""
FIELD = "content-encoding"
_GZIP, _ZLIB, _BARE = 31, 15, -15  # zlib's numbers for what stands around the packed bytes


def coding(header: str) -> str:
    """What a ``Content-Encoding`` says was done to the body; "" if nothing."""
    return ", ".join(
        name for name in map(str.strip, header.lower().split(",")) if name not in ("", "identity")
    )


def unpacked(data: Any, coding: str) -> bytes:
    """The body that ``data`` was made from, of at most ``MOST_BYTES``: no more than that is ever unpacked."""
    if coding in ("gzip", "x-gzip"):
        around = _GZIP
    elif coding == "deflate":  # as the standard says, or bare, as some clients send it
        around = _ZLIB if data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0 else _BARE
    else:
        raise BadRequest(
            FIELD, f"is {coding[:100]!r}; expected gzip, deflate or none", "unsupported_media_type"
        )
    stream = zlib.decompressobj(around)
    try:
        body = stream.decompress(data, MOST_BYTES + 1)
    except zlib.error:
        raise BadRequest("body", f"is not {coding}, as its {FIELD} says") from None
    if len(body) > MOST_BYTES:
        raise BadRequest("body", f"holds more than {MOST_BYTES} bytes when it is unpacked", "too_large")
    if not stream.eof or stream.unused_data:
        what = "goes on after its end" if stream.eof else "is cut short"
        raise BadRequest("body", f"is {coding} that {what}")
    return body
