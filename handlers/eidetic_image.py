"""From a PNG or JPEG to one input, by the same formula as in training (``eideticnet/images.py``)."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from eidetic_contract import Contract
from eidetic_errors import BadRequest

try:
    from PIL import Image, ImageOps
except ImportError:  # served without it, pictures alone are refused
    Image = None  # type: ignore[assignment]

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that are read; the others have 16 bits and more, which it would clip."""


def from_image(data: Any, field: str, contract: Contract) -> npt.NDArray[np.float32]:
    """The picture as (1, *shape). The number of its pixels is checked before any is decoded."""
    if Image is None:
        raise BadRequest(field, "is an image, and this server has no Pillow", "unsupported_media_type")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            warnings.simplefilter("ignore")  # our own limit is lower than the one that Pillow warns of
            _check_size(opened, field, contract)
            return _decode(opened, field, contract.image or {})[None].reshape(1, *contract.shape)
    except BadRequest:
        raise
    except Image.DecompressionBombError:
        raise BadRequest(
            field, f"has too many pixels; expected at most {contract.max_pixels}", "too_large"
        ) from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise BadRequest(field, f"is no PNG or JPEG that can be read: {str(error)[:200]}") from None


def _check_size(opened: Any, field: str, contract: Contract) -> None:
    pixels = opened.width * opened.height
    if pixels > contract.max_pixels:
        message = f"has {pixels} pixels; expected at most {contract.max_pixels}"
        raise BadRequest(field, message, "too_large")


def _decode(opened: Any, field: str, image: dict[str, Any]) -> npt.NDArray[np.float32]:
    if opened.mode not in EIGHT_BITS:
        raise BadRequest(field, f"holds pixels of mode {opened.mode}; expected 8 bits for each colour")
    picture = ImageOps.exif_transpose(opened).convert(image["mode"])
    height, width = image["size"]
    if picture.size != (width, height):
        if image["resize"] == "none":
            size = f"{picture.width} x {picture.height}"
            raise BadRequest(field, f"is {size} pixels; expected {width} x {height}")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels).astype(np.float32) / np.float32(image["scale"])
