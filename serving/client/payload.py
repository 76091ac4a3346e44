"""What a request carries: bytes, and the content type that says how to read them."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from eideticnet.files import read_regular
from eideticnet.serving.errors import ServingError

Whole: TypeAlias = bytes | Path
Instances: TypeAlias = npt.ArrayLike | Path | Sequence[Whole]
"""An array, a list or a tensor of one instance or of several; a file or its bytes, or several of them."""
Input: TypeAlias = Instances | Mapping[str, Any]

JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
_NPZ = "application/x-npz"
"""Of what a server takes as ``NPY``."""
_RAW_SUFFIXES = ("", ".raw", ".bin", ".dat", ".f32", ".i64")
PNG, JPEG = "image/png", "image/jpeg"
_EXPECTED = {
    **dict.fromkeys((JSON, ".json"), "a JSON object"),
    **dict.fromkeys((NPY, ".npy"), "an array, as numpy.save writes it"),
    ".npz": "an array called x, as numpy.savez writes it",
    **dict.fromkeys((PNG, JPEG, ".png", ".jpg", ".jpeg"), "an image"),
}
_BYTES = (bytes, bytearray, memoryview)
_MOST_BYTES = 2 << 30
"""Bytes of a file that is sent, in however many requests."""
_LARGEST = np.iinfo(np.int64).max
_MAGIC = {b"\x89PNG\r\n\x1a\n": PNG, b"\xff\xd8\xff": JPEG, b"\x93NUMPY": NPY, b"PK\3\4": _NPZ}


@dataclass(frozen=True)
class Payload:
    """The body of a request. ``alone``: it holds one instance, and messages about it count no instances.
    ``instances``: how many it may hold, an array's rows or one; empty where that is not known."""

    content: bytes
    content_type: str
    alone: bool = False
    instances: tuple[int, ...] = ()


def encode(x: Input, content_type: str = "") -> Payload:
    """An array, list or tensor as .npy (it carries its shape) or, if ``content_type`` says so, as raw
    numbers; a dict as JSON; the array of an .npz file; other bytes and files as they are. ``ServingError``
    for what can't be sent."""
    if isinstance(x, Mapping):
        return Payload(_json(x), JSON)
    if isinstance(x, Path):
        return _file(x, content_type)
    if isinstance(x, _BYTES):
        return _stored_as(bytes(x), content_type or kind(bytes(x[:8])))
    array = numbers(x)
    if content_type == RAW:  # which has no rows
        return Payload(array.tobytes(), RAW)
    return _as_npy(array, content_type or NPY)


def is_whole(x: object) -> bool:
    """Whether ``x`` is sent as it is, in one request."""
    return isinstance(x, (Mapping, Path, *_BYTES))


def _json(x: Mapping[str, Any]) -> bytes:
    def listed(value: Any) -> Any:
        return numbers(value).tolist()

    try:
        text = json.dumps(x, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=listed)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ServingError(f"the request can't be sent as JSON: {error}") from None


def kind(content: bytes) -> str:
    """The content type that the first bytes tell; raw numbers if they tell none."""
    return next((name for magic, name in _MAGIC.items() if content.startswith(magic)), RAW)


def _file(path: Path, content_type: str) -> Payload:
    try:
        content = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ServingError(f"{path} can't be read: {error.strerror}") from error
    suffix = path.suffix.lower()
    if not content:
        expected = _EXPECTED.get(content_type or suffix, "raw numbers")
        raise ServingError(f"{path} is empty; expected {expected}")
    found = content_type or (JSON if suffix == ".json" else kind(content))
    if not content_type and found == RAW and suffix not in _RAW_SUFFIXES:
        raise ServingError(
            f"{path}: {suffix} says nothing of what it holds; name its type if it is raw numbers"
        )
    return _stored_as(content, found)


def _stored_as(content: bytes, content_type: str) -> Payload:
    if content_type == _NPZ:
        return _as_npy(stored(content))
    return Payload(content, content_type, instances=(1,) if content_type in (PNG, JPEG) else ())


def numbers(x: object) -> npt.NDArray[Any]:
    """An array, list or tensor as little-endian float32, or int64 for whole numbers; C order."""
    if isinstance(x, str):
        raise ServingError(f"{x[:200]!r} is text; for the file of that name give a pathlib.Path")
    try:
        array = np.asarray([*map(_off_its_device, x)] if isinstance(x, (list, tuple)) else _off_its_device(x))
    except Exception as error:  # of numpy, or of whatever library the object is from
        raise ServingError(f"a {type(x).__name__} of this kind can't be sent: {error}") from None
    if array.dtype == object and not array.ndim:
        expected = "an array, list, tensor, pathlib.Path or bytes"
        raise ServingError(f"what is of type {type(x).__name__} can't be sent; expected {expected}")
    if array.dtype.kind not in "iuf" or (array.dtype == np.uint64 and (array > _LARGEST).any()):
        raise ServingError(f"an array of {array.dtype} can't be sent; expected float32 or int64")
    with np.errstate(over="ignore"):  # what becomes infinite is refused by name
        return np.asarray(array, dtype="<f4" if array.dtype.kind == "f" else "<i8", order="C")


def stored(content: bytes) -> npt.NDArray[Any]:
    """The array of a .npy file, or the one of an .npz file that is called x or is its only one."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return numbers(found)
        names = found.files
        if "x" not in names and len(names) != 1:
            raise ServingError(
                f"the .npz file holds {', '.join(names) or 'nothing'}; expected an array called x"
            )
        return numbers(found["x" if "x" in names else names[0]])
    except (OSError, ValueError, EOFError, MemoryError, BadZipFile, zlib.error) as error:
        reason = "it holds Python objects, which are never loaded" if "pickle" in str(error) else error
        kind = "npz" if content.startswith(b"PK") else "npy"
        raise ServingError(f"the .{kind} file can't be read: {reason}") from None


def _off_its_device(x: Any) -> Any:
    """A tensor as numpy takes it, on any device and of any precision (without importing torch)."""
    if not (hasattr(x, "detach") and hasattr(x, "is_floating_point")):
        return x
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).numpy()


def _as_npy(array: npt.NDArray[Any], content_type: str = NPY) -> Payload:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return Payload(file.getvalue(), content_type, instances=(1, *array.shape[:1]))
