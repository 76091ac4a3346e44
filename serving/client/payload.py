"""What a request carries: bytes, and the content type that says how to read them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from serving.errors import ServingError

Instances: TypeAlias = npt.NDArray[Any] | bytes | Path
Input: TypeAlias = Instances | Mapping[str, Any]

JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
_RAW_SUFFIXES = ("", ".raw", ".bin", ".dat", ".f32", ".i64")
PNG, JPEG = "image/png", "image/jpeg"
_MAGIC = {b"\x89PNG\r\n\x1a\n": PNG, b"\xff\xd8\xff": JPEG, b"\x93NUMPY": NPY}


@dataclass(frozen=True)
class Payload:
    """The body of a request."""

    content: bytes
    content_type: str


def encode(x: Input, content_type: str = "") -> Payload:
    """An array as .npy (it carries its shape) or, if ``content_type`` says so, as raw numbers; a dict
    as JSON; bytes and files as they are. ``ServingError`` for what can't be sent."""
    if isinstance(x, np.ndarray):
        array = numbers(x)
        content = array.tobytes() if content_type == RAW else _npy(array)
        return Payload(content, content_type or NPY)
    if isinstance(x, Mapping):
        text = json.dumps(x, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return Payload(text.encode(), JSON)
    if isinstance(x, Path):
        return _file(x, content_type)
    return Payload(bytes(x), content_type or kind(x))


def kind(content: bytes) -> str:
    """The content type that the first bytes tell; raw numbers if they tell none."""
    return next((name for magic, name in _MAGIC.items() if content.startswith(magic)), RAW)


def _file(path: Path, content_type: str) -> Payload:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ServingError(f"{path} can't be read: {error.strerror}") from error
    suffix = path.suffix.lower()
    found = content_type or (JSON if suffix == ".json" else kind(content))
    if not content_type and found == RAW and suffix not in _RAW_SUFFIXES:
        raise ServingError(
            f"{path}: {suffix} says nothing of what it holds; name its type if it is raw numbers"
        )
    return Payload(content, found)


def numbers(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Little-endian float32, or int64 for whole numbers; C order."""
    if x.dtype.kind not in "iuf":
        raise ServingError(f"an array of {x.dtype} can't be sent; expected float32 or int64")
    return np.ascontiguousarray(x, dtype="<f4" if x.dtype.kind == "f" else "<i8")


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
