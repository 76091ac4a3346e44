"""Numbers in JSON, in little-endian bytes and in .npy files, as arrays of the contract's type and shape.

Whether they are in range is checked once for a whole batch (``requests.gather``).
"""

from __future__ import annotations

import io
import struct
from array import array
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from eidetic_runtime.contract import Contract, text
from eidetic_runtime.errors import BadRequest, said, shown

Array = npt.NDArray[Any]
NPY = b"\x93NUMPY"
_LONGEST_HEADER = 1024


def one(value: Any, contract: Contract, strict: bool) -> Array:
    """The instance in a JSON value, as (1, *shape). ``strict`` looks for booleans, which would pass for
    numbers: needed only if the text can hold any."""
    return _array(value, "data", contract.shape, contract, strict).reshape(1, *contract.shape)


def several(value: Any, contract: Contract, strict: bool) -> Array:
    """The instances in a JSON list, as (n, *shape)."""
    if not isinstance(value, list) or not value:
        raise BadRequest("instances", f"holds {shown(value)}; expected a list of at least one instance")
    check_count("instances", len(value), contract)
    shape = (len(value), *contract.shape)
    try:
        return _array(value, "instances", shape, contract, strict).reshape(shape)
    except BadRequest:
        for i, instance in enumerate(value):
            _array(instance, f"instances[{i}]", contract.shape, contract, strict)
        raise


def flat(value: Any, field: str, count: int, contract: Contract) -> Array:
    """``count`` numbers in a flat JSON list, as (count,)."""
    return _array(value, field, (count,), contract, strict=True)


def check_count(field: str, count: int, contract: Contract) -> None:
    """Refuse more instances than one request may hold, before anything is made of them."""
    if count > contract.max_instances:
        message = f"holds {count} instances; expected at most {contract.max_instances}"
        raise BadRequest(field, message, "too_large")


def _array(value: Any, field: str, shape: tuple[int, ...], contract: Contract, strict: bool) -> Array:
    """Flat numbers of a nested list. ``struct`` takes numbers alone, and takes them a few times faster than
    numpy, which would take text as well; ``array`` also those that are infinite as float32."""
    leaves = _leaves(value, field, shape, contract)
    kind = "q" if contract.dtype.kind == "i" else "f"
    numbers: bytes | array[Any] | None = None
    try:
        numbers = struct.pack(f"{len(leaves)}{kind}", *leaves)
    except (struct.error, OverflowError):
        with suppress(TypeError, OverflowError):
            numbers = array(kind, leaves)
    if numbers is None or (strict and bool in set(map(type, leaves))):
        raise _no_number(leaves, field, shape, contract)
    return np.frombuffer(numbers, contract.dtype.newbyteorder("="))


def _leaves(value: Any, field: str, shape: tuple[int, ...], contract: Contract) -> list[Any]:
    level = [value]
    for size in shape:
        if any(type(inner) is not list or len(inner) != size for inner in level):
            raise _misshapen(value, field, shape, contract)
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
    return level


def _misshapen(value: Any, field: str, shape: tuple[int, ...], contract: Contract) -> BadRequest:
    found, level = list[int](), [value]
    while level and all(isinstance(inner, list) for inner in level):
        if len({len(inner) for inner in level}) > 1:
            return BadRequest(field, f"is ragged; expected {contract.numbers}")
        found.append(len(level[0]))
        level = list(chain.from_iterable(level))
    if any(isinstance(inner, list) for inner in level):
        return BadRequest(field, f"is ragged; expected {contract.numbers}")
    if any(not isinstance(inner, (int, float)) for inner in level):
        return BadRequest(field, f"holds something that is no number; expected {contract.numbers}")
    return BadRequest(field, f"has shape {text(tuple(found))}; expected {text(shape)}")


def _no_number(leaves: list[Any], field: str, shape: tuple[int, ...], contract: Contract) -> BadRequest:
    kind = "q" if contract.dtype.kind == "i" else "f"
    for i, leaf in enumerate(leaves):
        try:
            fits = type(leaf) is not bool and len(array(kind, [leaf])) == 1
        except (TypeError, OverflowError):
            fits = False
        if not fits:
            place = "".join(f"[{j}]" for j in np.unravel_index(i, shape))
            expected = "a whole number of 64 bits" if kind == "q" else "a finite number"
            what = "a number too large" if isinstance(leaf, int) and type(leaf) is not bool else shown(leaf)
            return BadRequest(f"{field}{place}", f"is {what}, no number of this input; expected {expected}")
    raise AssertionError("unreachable")


def from_raw(data: Any, field: str, contract: Contract) -> Array:
    """Little-endian numbers (n, *shape), without a copy: one instance, or several back to back."""
    each = contract.size * contract.dtype.itemsize
    count, rest = divmod(len(data), each)
    if rest or not count:
        kind = "int64" if contract.dtype.kind == "i" else "float32"
        raise BadRequest(
            field,
            f"has {len(data)} bytes; expected {each} for each instance of shape {text(contract.shape)}, "
            f"little-endian {kind}",
        )
    check_count(field, count, contract)
    return np.frombuffer(data, contract.dtype).reshape(count, *contract.shape)


def from_npy(data: Any, field: str, contract: Contract) -> tuple[Array, bool]:
    """The array of a .npy file as (n, *shape), and whether it had a leading axis. Nothing is unpickled, and
    nothing allocated before the header fits the contract and the size of the file."""
    header, start = _npy_header(data, field)
    try:
        shape, fortran, dtype = _parsed(header)
    except Exception as error:  # numpy's own errors, and those of the literal that it evaluates
        raise BadRequest(field, f"has no .npy header that can be read: {said(error)}") from None
    _check_dtype(dtype, field, contract)
    many = len(shape) == len(contract.shape) + 1
    if (shape[1:] if many else shape) != contract.shape or 0 in shape:
        expected = f"expected {text(contract.shape)}, or the same after a number of instances"
        raise BadRequest(field, f"has shape {text(shape)}; {expected}")
    if many:
        check_count(field, shape[0], contract)
    if len(data) - start != prod(shape) * dtype.itemsize:
        expected = f"{prod(shape) * dtype.itemsize} for its shape and type"
        raise BadRequest(field, f"has {len(data) - start} bytes of numbers; expected {expected}")
    flat = np.frombuffer(data, dtype, offset=start)
    values = flat.reshape(shape[::-1]).transpose() if fortran else flat.reshape(shape)
    with np.errstate(over="ignore"):  # infinity is refused with all else that is out of range
        values = values.astype(contract.dtype, copy=False)
    return (values if many else values[None]), many


def _npy_header(data: Any, field: str) -> tuple[bytes, int]:
    """The file up to the end of its header, and where its numbers start."""
    width = 2 if data[6:7] == b"\x01" else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    start = 8 + width + length
    if (
        data[:6] != NPY
        or data[6:7] not in (b"\x01", b"\x02")
        or len(data) < start
        or length > _LONGEST_HEADER
    ):
        raise BadRequest(field, "is no .npy file of version 1 or 2 with a plain header")
    return bytes(data[:start]), start


@lru_cache(64)  # clients send the same header again and again, and numpy takes long to read it
def _parsed(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file, max_header_size=_LONGEST_HEADER)
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f"a size in {shape} is negative")
    return tuple(shape), fortran, dtype


def _check_dtype(dtype: np.dtype[Any], field: str, contract: Contract) -> None:
    """Any integers, and floats where the contract has floats, of 64 bits and either byte order."""
    kinds = "iu" if contract.dtype.kind == "i" else "iuf"
    if dtype.kind not in kinds or dtype.itemsize > 8 or (kinds == "iu" and dtype == np.uint64):
        raise BadRequest(field, f"holds {dtype.str}; expected {contract.dtype.name}")
