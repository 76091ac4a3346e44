"""From a PNG or JPEG to one input, in training and when it is served.

What a file may cost is bounded before anything is decoded: a few kilobytes can ask for seconds.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from eidetic_runtime.contract import Contract, usual_pixels
from eidetic_runtime.errors import BadRequest, said

try:
    from PIL import Image as Image
    from PIL import ImageOps, UnidentifiedImageError
except ImportError:  # served without it, pictures alone are refused
    Image = None  # type: ignore[assignment]

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that are read; the others have 16 bits and more, which it would clip."""
MOST_PARTS, MOST_PACKED, MOST_SCANS, MOST_EXIF = 4096, 8, 32, 1 << 16
"""Chunks or segments of a file, packed texts and profiles among them (a megabyte each), passes over the
pixels, bytes of EXIF: far more than pictures have, and few enough to be read in milliseconds."""
_SCAN, _END, _BARE = 0xDA, 0xD9, (0x01, *range(0xD0, 0xD8))  # markers of JPEG; the last have no length
_NEXT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what ends the pixels of a scan
_PACKED = (b"iCCP", b"zTXt", b"iTXt")
_EXIF = ("exif", "Raw profile type exif")


def from_image(data: Any, field: str, contract: Contract) -> npt.NDArray[np.float32]:
    """The picture as (1, *shape). Its size and its parts are checked before any pixel is decoded."""
    if Image is None:
        raise BadRequest(field, "is an image, and this server has no Pillow", "unsupported_media_type")
    with opened(data, field, contract.max_pixels) as picture:
        _check_size(picture, data, field, contract)
        return decode(picture, field, contract.image or {})[None].reshape(1, *contract.shape)


@contextmanager
def opened(data: Any, field: str, most: int) -> Iterator[Any]:
    """The picture, not yet decoded, as Pillow has it, which may know how many pixels are too many: ``most``.
    What goes wrong with it here or inside is a ``BadRequest``."""
    try:
        if problem := too_busy(data):
            raise BadRequest(field, problem, "too_large")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, of which there are fewer; of palettes
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
                yield picture
    except BadRequest:
        raise
    except Image.DecompressionBombError:
        raise BadRequest(field, f"has too many pixels; expected at most {most}", "too_large") from None
    except UnidentifiedImageError:
        what = "is no PNG or JPEG that can be read: it is another format, or cut short"
        raise BadRequest(field, what) from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise BadRequest(field, f"is no PNG or JPEG that can be read: {said(error)}") from None


def too_busy(data: Any) -> str:
    """Why the parts of a file would take too long to read, or are no single picture; else ""."""
    if data[:8] != PNG:
        markers = list(islice(_markers(data), MOST_PARTS + 1))
        parts = len(markers)
        if markers.count(_SCAN) > MOST_SCANS:
            return f"has more than {MOST_SCANS} scans"
    else:
        names = list(islice(_chunks(data), MOST_PARTS + 1))
        parts = len(names)
        if b"acTL" in names:
            return "is an animation; expected a single picture"
        if sum(name in _PACKED for name in names) > MOST_PACKED:
            return f"has more than {MOST_PACKED} packed texts and profiles"
    return f"is made of more than {MOST_PARTS} parts" if parts > MOST_PARTS else ""


def _chunks(data: Any) -> Iterator[bytes]:
    """The names of a PNG's chunks."""
    at = len(PNG)
    while at + 8 <= len(data):
        yield bytes(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _markers(data: Any) -> Iterator[int]:
    """The markers of a JPEG up to its end; what is between two segments counts byte by byte."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1] if data[at] == 0xFF else 0
        yield marker
        if marker == _END:
            return
        if marker in (0x00, 0xFF):
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SCAN:
            found = _NEXT.search(data, at)
            at = found.start() if found else len(data)


def _check_size(opened: Any, data: Any, field: str, contract: Contract) -> None:
    image, pixels, most = contract.image or {}, opened.width * opened.height, contract.max_decoded
    check_shape(opened, field, image)
    if pixels <= contract.max_pixels:
        reduce(opened, data, usual_pixels(image))
    if opened.width * opened.height > most or pixels > contract.max_pixels:
        expected = f"expected at most {min(most, contract.max_pixels)}"
        if most < contract.max_pixels:
            expected += f", or {contract.max_pixels} in a JPEG that is not progressive"
        raise BadRequest(field, f"has {pixels} pixels; {expected}; make it smaller first", "too_large")


def check_shape(picture: Any, field: str, image: Mapping[str, Any]) -> None:
    """``BadRequest`` where ``image`` resizes nothing, and the picture has another size, upright or not."""
    size = tuple(image.get("size", ()))
    if image.get("resize") == "none" and size not in (picture.size, picture.size[::-1]):
        raise _other_size(picture, field, size)


def reduce(opened: Any, data: Any, most: int) -> None:
    """Let a JPEG of one scan that has more than ``most`` pixels be decoded at a half, a quarter or an eighth
    of its size, which costs little."""
    width, height = opened.size
    parts = [part for part in (1, 2, 4, 8) if -(-width // part) * -(-height // part) <= most]
    part = parts[0] if parts else 8
    if part > 1 and data[:8] != PNG and list(_markers(data)).count(_SCAN) == 1:
        opened.draft(None, (max(1, width // part), max(1, height // part)))


def _other_size(picture: Any, field: str, size: tuple[int, ...]) -> BadRequest:
    found = f"{picture.width} x {picture.height}"
    return BadRequest(field, f"is {found} pixels; expected {size[1]} x {size[0]}")


def decode(opened: Any, field: str, image: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The ``opened`` picture as (C, H, W): turned upright as its EXIF tag says, transparency dropped, and
    converted, resized and divided as ``image`` says. ``BadRequest`` where it can't be."""
    if opened.mode not in EIGHT_BITS or any("16" in str(tile[3]) for tile in opened.tile):
        message = f"holds pixels of mode {opened.mode}, of 16 bits; expected 8 bits for each colour"
        raise BadRequest(field, message)
    opened.load()
    if sum(len(opened.info.get(name, "")) for name in _EXIF) > MOST_EXIF:
        raise BadRequest(field, f"has more than {MOST_EXIF} bytes of EXIF", "too_large")
    ImageOps.exif_transpose(opened, in_place=True)
    picture = opened.convert(image["mode"])
    height, width = image["size"]
    if picture.size != (width, height):
        if image["resize"] == "none":
            raise _other_size(picture, field, (height, width))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels).astype(np.float32) / np.float32(image["scale"])
