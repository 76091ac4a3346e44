"""From a PNG or JPEG file to an input of the network.

A server decodes with the same formula (its handler can't import this one), so for the same file both have
the same x to the last bit; that takes the same release of Pillow, whose filters round.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eideticnet.errors import DataError, DataWarning
from eideticnet.files import open_regular
from eideticnet.inputs import ImageInput, Inputs

PNG = b"\x89PNG\r\n\x1a\n"
SUFFIXES = (".png", ".jpg", ".jpeg")
UNREAD = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".tif", ".tiff", ".webp")
"""What else is a picture by its name."""
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that are read; the others have 16 bits and more, which it would clip."""
MOST_PARTS, MOST_PACKED, MOST_SCANS, MOST_EXIF = 4096, 8, 32, 1 << 16
MAX_PIXELS = 1 << 24
"""Of a picture that a server takes, whose decoded part is smaller, unless it was exported for more."""
_PIXELS_FOR_ONE, _FEW_PIXELS = 64, 1 << 18
_SCAN, _END, _BARE = 0xDA, 0xD9, (0x01, *range(0xD0, 0xD8))  # markers of JPEG; the last have no length
_NEXT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what ends the pixels of a scan
_PACKED = (b"iCCP", b"zTXt", b"iTXt")
_EXIF = ("exif", "Raw profile type exif")


def read_image(path: Path, image: ImageInput) -> Tensor:
    """The picture in a file as x, float32 of ``image.shape``.

    Turned upright as its EXIF tag says, transparency dropped, converted to ``image.mode``, resized,
    divided by ``image.scale``. ``DataError`` names the file, also one whose parts take too long to read.
    """
    return _read(path, image)[0]


def _read(path: Path, image: ImageInput) -> tuple[Tensor, int]:
    """A picture as x, and how many pixels it has if a server would take it for too large, else 0."""
    pillow = _pillow()
    try:
        with open_regular(path) as file:
            data = file.read()
        if problem := _too_busy(data):
            raise DataError(problem)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels; and what Pillow says of palettes
            with pillow.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
                pixels, most = _check_size(opened, image), usual_pixels(image)
                reduce(opened, data, most)  # as a server does, whatever it was exported for
                large = pixels > MAX_PIXELS or opened.width * opened.height > most
                return torch.from_numpy(_decode(opened, image)), pixels if large else 0
    except DataError as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise DataError(f"{where}{error}") from None
    except pillow.DecompressionBombError:
        most = 2 * (pillow.MAX_IMAGE_PIXELS or 0)
        raise DataError(
            f"{path}: has too many pixels; expected at most {most}; make it smaller first"
        ) from None
    except OSError as error:
        told = error.strerror or "it is another format, or cut short"
        raise DataError(f"{path} is no PNG or JPEG that can be read: {told}") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise DataError(f"{path} is no PNG or JPEG that can be read: {error}") from error


def usual_pixels(image: ImageInput) -> int:
    """How many pixels of a picture a server decodes unless it was exported for more: as many as the input has
    where it is not resized, else 64 for each of the input's, and 512 x 512 at least."""
    needed = prod(image.size)
    return needed if image.resize == "none" else max(_PIXELS_FOR_ONE * needed, _FEW_PIXELS)


def reduce(opened: Any, data: bytes, most: int) -> None:
    """Let a JPEG of one scan that has more than ``most`` pixels be decoded at a half, a quarter or an eighth
    of its size, which costs little."""
    width, height = opened.size
    parts = [part for part in (1, 2, 4, 8) if -(-width // part) * -(-height // part) <= most]
    part = parts[0] if parts else 8
    if part > 1 and data[:8] != PNG and list(_markers(data)).count(_SCAN) == 1:
        opened.draft(None, (max(1, width // part), max(1, height // part)))


def _too_busy(data: bytes) -> str:
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


def _chunks(data: bytes) -> Iterator[bytes]:
    """The names of a PNG's chunks."""
    at = len(PNG)
    while at + 8 <= len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _markers(data: bytes) -> Iterator[int]:
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


def _check_size(opened: Any, image: ImageInput) -> int:
    """How many pixels a picture has, which is refused where it should have another size."""
    height, width = image.size
    if image.resize == "none" and opened.size not in ((width, height), (height, width)):
        raise DataError(f"is {opened.width} x {opened.height} pixels; expected {width} x {height}")
    return int(opened.width * opened.height)


def _decode(opened: Any, image: ImageInput) -> np.ndarray[Any, np.dtype[np.float32]]:
    from PIL import Image, ImageOps

    if opened.mode not in EIGHT_BITS or any("16" in str(tile[3]) for tile in opened.tile):
        raise DataError(f"holds pixels of mode {opened.mode}, of 16 bits; expected 8 bits for each colour")
    opened.load()
    if sum(len(opened.info.get(name, "")) for name in _EXIF) > MOST_EXIF:
        raise DataError(f"has more than {MOST_EXIF} bytes of EXIF")
    ImageOps.exif_transpose(opened, in_place=True)
    picture = opened.convert(image.mode)
    height, width = image.size
    if picture.size != (width, height):
        if image.resize == "none":
            raise DataError(f"is {picture.width} x {picture.height} pixels; expected {width} x {height}")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
    return pixels.reshape(image.shape).astype(np.float32) / np.float32(image.scale)


def read_folder(
    folder: Path, classes: Sequence[str], inputs: Inputs, others: Collection[str] = ()
) -> tuple[Tensor, Tensor]:
    """All pictures in ``folder``, which holds a folder for each class, and may hold those of ``others``:
    x (N, *shape), y (N,) int64, class by class, each sorted by file name. ``DataError`` says what is
    missing, and what would not be read; a ``DataWarning`` what a server would refuse as too large."""
    if inputs.image is None:
        raise DataError(f"{folder} is a folder of images: say in [input.image] how they become inputs")
    files = [_files(folder / name) for name in classes]
    known = {Path(name).parts[0] for name in (*classes, *others)}
    _refuse_unread(folder, known, SUFFIXES, f"the classes are {', '.join(classes)}")
    x, pixels = zip(*(_read(path, inputs.image) for paths in files for path in paths), strict=True)
    y = [label for label, paths in enumerate(files) for _ in paths]
    if large := sum(map(bool, pixels)):
        found = f"{large} of {len(y)} pictures are larger than a server takes"
        how = f"`eidetic export --max-pixels {max(pixels)}` makes one that does"
        warnings.warn(f"{folder}: {found}; {how}", DataWarning, stacklevel=2)
    return torch.stack(x), torch.tensor(y)


def _files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)}) of the class of that name")
    _refuse_unread(folder, {path.name for path in files}, (), f"read are {', '.join(SUFFIXES)}")
    return files


def _refuse_unread(folder: Path, known: Collection[str], suffixes: Sequence[str], why: str) -> None:
    """``DataError`` for a folder beside those ``known``, and for a picture that has one of ``suffixes`` or
    is of a format that isn't read."""
    for path in sorted(folder.iterdir()):
        if path.name in known or path.name.startswith("."):
            continue
        if path.is_dir() or path.suffix.lower() in (*UNREAD, *suffixes):
            raise DataError(f"{folder} holds {path.name!r}, which would not be read ({why}); move it away")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow: pip install 'eideticnet[images]'") from None
    return Image
