"""From a PNG or JPEG file to an input of the network.

A server decodes with the same formula (its handler can't import this one), so for the same file both have
the same x to the last bit; that takes the same release of Pillow, whose filters round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eideticnet.errors import DataError
from eideticnet.inputs import ImageInput, Inputs

SUFFIXES = (".png", ".jpg", ".jpeg")
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that are read; the others have 16 bits and more, which it would clip."""


def read_image(path: Path, image: ImageInput) -> Tensor:
    """The picture in a file as x, float32 of ``image.shape``.

    Turned upright as its EXIF tag says, transparency dropped, converted to ``image.mode``, resized,
    divided by ``image.scale``. ``DataError`` names the file.
    """
    pillow = _pillow()
    try:
        with pillow.open(path, formats=("PNG", "JPEG")) as opened:
            return torch.from_numpy(_decode(opened, image))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise DataError(f"{path} is no PNG or JPEG that can be read: {error}") from error


def _decode(opened: Any, image: ImageInput) -> np.ndarray[Any, np.dtype[np.float32]]:
    from PIL import Image, ImageOps

    if opened.mode not in EIGHT_BITS:
        raise DataError(f"holds pixels of mode {opened.mode}; expected 8 bits for each colour")
    picture = ImageOps.exif_transpose(opened).convert(image.mode)
    height, width = image.size
    if picture.size != (width, height):
        if image.resize == "none":
            raise DataError(f"is {picture.width} x {picture.height} pixels; expected {width} x {height}")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
    return pixels.reshape(image.shape).astype(np.float32) / np.float32(image.scale)


def read_folder(folder: Path, classes: Sequence[str], inputs: Inputs) -> tuple[Tensor, Tensor]:
    """All pictures in ``folder``, which holds a folder for each class: x (N, *shape), y (N,) int64,
    class by class, each sorted by file name. ``DataError`` says what is missing."""
    if inputs.image is None:
        raise DataError(f"{folder} is a folder of images: say in [input.image] how they become inputs")
    files = [_files(folder / name) for name in classes]
    x = [read_image(path, inputs.image) for paths in files for path in paths]
    y = [label for label, paths in enumerate(files) for _ in paths]
    return torch.stack(x), torch.tensor(y)


def _files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)}) of the class of that name")
    return files


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow: pip install 'eideticnet[images]'") from None
    return Image
