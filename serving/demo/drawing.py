"""From what is drawn, uploaded or pasted to the numbers that a model takes.

A drawing becomes an input as the data of written characters were made: cut out, fitted into the frame, drawn
much larger with a pen that is as thick as theirs, and reduced to the frame's pixels by areas, which keeps the
shades at the edges.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageOps
from pydantic import TypeAdapter, ValidationError

from eidetic_runtime.errors import BadRequest
from eidetic_runtime.pictures import opened
from eideticnet.client.payload import JPEG, NPY, PNG, kind, numbers, stored
from eideticnet.contract.bundle import Input
from eideticnet.serving.errors import ServingError

Array = npt.NDArray[Any]
Stroke = list[tuple[float, float]]
MOST_PIXELS = 1 << 24
"""Of a picture that is uploaded where the model itself reads none."""
_SMALLEST = 5
"""Pixels of a side from which on it can be drawn in."""
_FINER = 16
"""How many times as many pixels each side has while it is drawn."""
_FAINT = 32
"""Shade, of 255, under which a pixel of a picture is background."""
_Strokes = TypeAdapter(list[Stroke])


@dataclass(frozen=True)
class Look:
    """How characters lie in a frame: its free ``margin`` and the ``pen``, as shares of its side, the share
    that the ``widest`` takes, and what lies in its centre."""

    margin: float
    pen: float
    widest: float
    centre: Literal["box", "mass"]


SMALL = Look(margin=0, pen=0.22, widest=0.65, centre="box")
"""As scikit-learn's digits of 8 x 8: as high as the frame, and 5.4 pixels wide in the mean."""
LARGE = Look(margin=1 / 7, pen=0.08, widest=5 / 7, centre="mass")
"""As MNIST: 20 x 20 pixels around the centre of mass, in 28 x 28."""


@dataclass(frozen=True)
class Frame:
    """A picture that is an input of ``shape``: its size in pixels, its colours, and the numbers of its
    background (``low``) and of a pen (``high``)."""

    shape: tuple[int, ...]
    height: int
    width: int
    low: float
    high: float

    @property
    def look(self) -> Look:
        return SMALL if max(self.height, self.width) < 2 * 8 else LARGE

    def numbers(self, shades: Array, dark: bool = False) -> Array:
        """An instance (*shape) float32 of the shades (height, width) from 0 to 255; ``dark``: where a pen
        has the low number."""
        part = (255 - shades if dark else shades).astype(np.float64) / 255
        values = (self.low + part * (self.high - self.low)).astype(np.float32)
        colours = math.prod(self.shape) // values.size
        found: Array = np.broadcast_to(values, (colours, *values.shape)).reshape(self.shape)
        return found

    def shades(self, x: Array) -> Array:
        """What an instance looks like, (height, width) from 0 to 255."""
        values = x.reshape(-1, self.height, self.width).mean(0)
        share = (values - self.low) / (self.high - self.low)
        found: Array = (255 * share.clip(0, 1)).round().astype(np.uint8)
        return found


def frame(spec: Input) -> Frame | None:
    """The picture that an input is or may be: one by the contract, or numbers of a known range in the shape
    of a picture, or as many as a square has. None where nothing can be drawn."""
    low, high, shape = spec.low, spec.high, spec.shape
    if spec.image is not None:
        height, width = spec.image.size
        return Frame(shape, height, width, 0, 255 / spec.image.scale)
    if spec.dtype != "float32" or low is None or high is None or not low < high:
        return None
    side = math.isqrt(shape[0])
    flat = (side, side) if len(shape) == 1 and side * side == shape[0] else ()
    sizes = flat or (
        shape if len(shape) == 2 else shape[1:] if len(shape) == 3 and shape[0] in (1, 3) else ()
    )
    return Frame(shape, sizes[0], sizes[1], low, high) if sizes and min(sizes) >= _SMALLEST else None


def drawn(text: str, into: Frame, dark: bool = False) -> Array:
    """An instance of ``into`` of strokes: JSON lists of points, each (x, y) from 0 to 1."""
    try:
        strokes = [stroke for stroke in _Strokes.validate_json(text or "[]") if stroke]
    except ValidationError:
        raise ServingError("the strokes can't be read: load the page again") from None
    points = np.array([point for stroke in strokes for point in stroke])
    if not len(points):
        raise ServingError("nothing is drawn yet: drag over the field, or use arrow keys and the space bar")
    if not np.isfinite(points).all() or np.abs(points).max() > 2:
        raise ServingError("the strokes lie outside the field: load the page again")
    look, finer = into.look, (into.width * _FINER, into.height * _FINER)
    pen = look.pen * min(finer)
    size, scale = _fitted(np.ptp(points, axis=0), finer, look, pen)
    start = (np.array(finer) - size) / 2 - points.min(0) * scale
    image = Image.new("L", finer)
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        path = [(x, y) for x, y in np.array(stroke) * scale + start]
        draw.line(path, 255, round(pen), joint="curve")
        for x, y in path:  # round ends
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)
    return into.numbers(_reduced(image, into), dark)


def _fitted(span: Array, room: tuple[int, int], look: Look, pen: float) -> tuple[Array, Array]:
    """The size (width, height) that points which span so much get, and by how much they are multiplied: as
    large as the room allows, and narrower where that is wider than the look's widest."""
    most = np.array(room) * (1 - 2 * look.margin) - pen
    scales = [most[i] / span[i] for i in (0, 1) if span[i] > 0.02]
    each = np.full(2, min(scales, default=0.0)) if span[1] <= 0.02 else np.full(2, most[1] / span[1])
    each[0] = min(each[0], max(room[0] * look.widest - pen, 1) / max(span[0], 1e-6))
    return span * each, each


def _reduced(image: Image.Image, into: Frame) -> Array:
    """The shades (height, width) of a drawing that is ``_FINER`` as large, its centre of mass in the centre
    where the look says so."""
    if into.look.centre == "mass":
        shades = np.asarray(image, np.float64)
        rows, columns = (np.arange(n) for n in shades.shape)
        weight = max(shades.sum(), 1.0)
        down = image.height / 2 - float(rows @ shades.sum(1)) / weight
        right = image.width / 2 - float(columns @ shades.sum(0)) / weight
        image = ImageChops.offset(image, round(right), round(down))
    return np.asarray(image.resize((into.width, into.height), Image.Resampling.BOX))


def uploaded(content: bytes, spec: Input, dark: bool = False) -> Array | bytes:
    """What a file holds: an array of .npy or .npz, a picture as an instance, or the bytes of one that the
    model itself reads."""
    found = kind(content[:8])
    if found not in (PNG, JPEG):
        if found != NPY and not content.startswith(b"PK"):
            raise ServingError("the file is none of PNG, JPEG, .npy and .npz")
        return _shaped(stored(content), spec)
    if spec.image is not None:
        return content
    if (into := frame(spec)) is None:
        raise ServingError("this model takes no picture: upload a .npy file, or paste its numbers")
    return into.numbers(_cut_out(_shades(content), into), dark)


def _shades(content: bytes) -> Image.Image:
    """A picture in shades, bright on dark."""
    try:
        with opened(content, "the picture", MOST_PIXELS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ServingError(f"the picture has more than {MOST_PIXELS} pixels; make it smaller first")
            shades = ImageOps.autocontrast(ImageOps.exif_transpose(picture).convert("L"))
    except BadRequest as error:
        raise ServingError(str(error)) from None
    edge = np.asarray(shades)
    rim = np.concatenate([edge[0], edge[-1], edge[:, 0], edge[:, -1]])
    return ImageOps.invert(shades) if np.median(rim) > 127 else shades


def _cut_out(shades: Image.Image, into: Frame) -> Array:
    """The shades (height, width) of what is bright in a picture, fitted into the frame."""
    box = shades.point(lambda shade: 255 * (shade > _FAINT)).getbbox()
    if box is None:
        raise ServingError("the picture is of one colour: there is nothing in it")
    room, look = (into.width * _FINER, into.height * _FINER), into.look
    span = np.array([box[2] - box[0], box[3] - box[1]], float)
    size, _ = _fitted(span, room, look, 0)
    part = shades.crop(box).resize([max(1, round(n)) for n in size], Image.Resampling.BOX)
    image = Image.new("L", room)
    image.paste(part, ((image.width - part.width) // 2, (image.height - part.height) // 2))
    return _reduced(image, into)


def pasted(text: str, spec: Input) -> Array:
    """An instance of numbers as people write them: JSON, or with spaces, commas or lines between them."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _written(text, spec)
    try:
        x = numbers(found.get("data") if isinstance(found, dict) else found)
    except ServingError:
        raise ServingError(f"that is no list of numbers; expected {expected(spec)}") from None
    return _shaped(x, spec)


def _written(text: str, spec: Input) -> Array:
    """An instance of numbers with something between them."""
    words = re.split(r"[\s,;]+", text.strip(" \t\r\n,;[]"))
    try:
        return _shaped(np.array([float(word) for word in words]), spec)
    except ValueError:
        wrong = next((word for word in words if not _is_number(word)), "")
        raise ServingError(f"{wrong[:40]!r} is no number; expected {expected(spec)}") from None


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _shaped(x: Array, spec: Input) -> Array:
    """``x`` as one instance of the contract's shape."""
    if x.size != math.prod(spec.shape):
        raise ServingError(f"there are {x.size} numbers; expected {expected(spec)}")
    whole = spec.dtype == "int64"
    if whole and not np.array_equal(x, np.trunc(x)):
        raise ServingError(f"some numbers are not whole; expected {expected(spec)}")
    with np.errstate(over="ignore"):
        return x.reshape(spec.shape).astype(np.int64 if whole else np.float32)


def expected(spec: Input) -> str:
    """What the numbers of an instance have to be, in words."""
    bounds = [f"{word} {n:g}" for word, n in (("from", spec.low), ("to", spec.high)) if n is not None]
    count = math.prod(spec.shape)
    shape = f" (shape {' x '.join(map(str, spec.shape))})" if len(spec.shape) > 1 else ""
    kind_of = "whole numbers" if spec.dtype == "int64" else "numbers"
    return " ".join([f"{count} {kind_of}{shape}", *bounds])
