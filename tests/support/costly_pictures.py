"""Picture files that would cost a decoder far more than their bytes."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def black(
    width: int, height: int, bits: int = 8, colours: int = 2, beside: bytes = b"", rows: int | None = None
) -> bytes:
    """A PNG with chunks ``beside`` its pixels, or with fewer ``rows`` than it says."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colours]
    pixels = bytes((width * channels * bits // 8 + 1) * (height if rows is None else rows))
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, bits, colours, 0, 0, 0))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", head, beside, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    )


def costly() -> dict[str, tuple[bytes, str]]:
    """Small files that Pillow would read for a second and more, and what is said of them."""
    packed = b"a\0\0" + zlib.compress(bytes((1 << 20) - 1))
    entries = b"".join(struct.pack("<HHII", 0x0112 + n, 3, 1, 6) for n in range(60_000))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + entries + bytes(4)
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    jpeg = file.getvalue()
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return {
        "pixels": (black(4096, 4096), "16777216 pixels; expected at most 262144, or 16777216 in a JPEG"),
        "pixels that are not there": (black(50_000, 50_000, rows=1), "too many pixels"),
        "profiles": (
            black(5, 4, beside=chunk(b"iCCP", packed) * 500),
            "more than 8 packed texts and profiles",
        ),
        "texts": (black(5, 4, beside=chunk(b"zTXt", packed) * 60), "more than 8 packed texts and profiles"),
        "empty chunks": (black(5, 4, beside=chunk(b"IDAT", b"") * 400_000), "more than 4096 parts"),
        "EXIF": (black(5, 4, beside=chunk(b"eXIf", exif)), "more than 65536 bytes of EXIF"),
        "scans": (jpeg[:-2] + last * 1000 + jpeg[-2:], "more than 32 scans"),
        "scans behind what looks like the end": (
            jpeg[:-2] + b"\xff\xfe\x00\x04\xff\xd9" + last * 1000 + jpeg[-2:],
            "more than 32 scans",
        ),
        "scans behind a marker without a length": (
            jpeg[:-2] + b"\xff\x01\xff\xff" + last * 1000 + jpeg[-2:],
            "more than 32 scans",
        ),
        "segments": (jpeg[:2] + b"\xff\xfe\x00\x02" * 300_000 + jpeg[2:], "more than 4096 parts"),
        "padding": (jpeg[:2] + b"\xff" * 3_000_000 + jpeg[2:], "more than 4096 parts"),
    }


COSTLY = costly()
