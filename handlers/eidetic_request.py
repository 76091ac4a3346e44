"""From a request's body to an array, or to an error that names the field and what was expected."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import orjson
except ImportError:  # the standard parser is slower but understands the same requests
    orjson = None  # type: ignore[assignment]

FIELDS = ("data", "instances", "task", "threshold")
ROUTE = -1
KINDS = {400: "bad_request", 408: "expired", 413: "too_large", 415: "unsupported_media_type", 500: "internal"}


class BadRequest(Exception):
    """A request that its sender has to change. ``status`` is an HTTP status of 400 or more."""

    def __init__(self, field: str, message: str, status: int = 400) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message, self.status = _printable(field, 100), _printable(message, 1000), status

    @property
    def kind(self) -> str:
        return KINDS[self.status]

    def to_json(self) -> dict[str, Any]:
        return {"error": {"kind": self.kind, "field": self.field, "message": self.message}}


def _printable(text: str, longest: int) -> str:
    """What a sender wrote may hold lone surrogates, which no encoder takes back."""
    return text[:longest].encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Request:
    """``x`` (n, *shape); ``task`` is the index of the pinned task or -1; ``many`` tells whether
    the answer is a list."""

    x: npt.NDArray[Any]
    task: int
    threshold: float
    many: bool


def parse(body: Any, bundle: dict[str, Any]) -> Request:
    """Read a JSON request: ``{"data": [...]}`` or ``{"instances": [[...], ...]}``, with optional
    ``"task"`` and ``"threshold"``. Raises ``BadRequest``."""
    fields = _json_object(body)
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise BadRequest(str(unknown[0]), f"unexpected field; expected {', '.join(FIELDS)}")
    if ("data" in fields) == ("instances" in fields):
        raise BadRequest("data", 'give either "data" (one instance) or "instances" (a list of them)')
    many = "instances" in fields
    x = _instances(fields["instances"], bundle) if many else _one(fields["data"], bundle)
    return Request(x, _task(fields.get("task"), bundle), _threshold(fields.get("threshold"), bundle), many)


def _json_object(body: Any) -> dict[str, Any]:
    if isinstance(body, (bytes, bytearray, str)):
        if not body:
            raise BadRequest("body", "empty; expected a JSON object, sent as application/json")
        body = _load_json(body)
    if not isinstance(body, dict):
        raise BadRequest("body", f"holds {_kind(body)}; expected a JSON object")
    return body


def _load_json(text: bytes | bytearray | str) -> Any:
    try:
        return orjson.loads(text) if orjson else json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:  # slower, but it knows NaN and Infinity, and so names the number and not a column
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest("body", f"not JSON: {error}; expected a JSON object") from None


def _one(value: Any, bundle: dict[str, Any]) -> npt.NDArray[Any]:
    return _array(value, "data", tuple(bundle["input"]["shape"]), bundle["input"])[None]


def _instances(value: Any, bundle: dict[str, Any]) -> npt.NDArray[Any]:
    if not isinstance(value, list) or not value:
        raise BadRequest("instances", f"holds {_kind(value)}; expected a list of at least one instance")
    most = int(bundle["limits"]["max_instances"])
    if len(value) > most:
        raise BadRequest("instances", f"holds {len(value)} instances; expected at most {most}", 413)
    shape = tuple(bundle["input"]["shape"])
    try:
        return _array(value, "instances", (len(value), *shape), bundle["input"])
    except BadRequest:
        for i, instance in enumerate(value):
            _array(instance, f"instances[{i}]", shape, bundle["input"])
        raise


def _array(value: Any, field: str, shape: tuple[int, ...], spec: dict[str, Any]) -> npt.NDArray[Any]:
    """A contiguous array of exactly ``shape``, of the contract's type and within its range."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise BadRequest(field, f"is ragged; expected numbers of shape {_text(shape)}") from None
    kinds = "iu" if spec["dtype"] == "int64" else "iuf"
    if array.dtype.kind not in kinds and array.size:
        expected = "whole numbers" if spec["dtype"] == "int64" else "numbers"
        raise BadRequest(
            field, f"holds something that is no number; expected {expected} of shape {_text(shape)}"
        )
    if array.shape != shape:
        raise BadRequest(field, f"has shape {_text(array.shape)}; expected {_text(shape)}")
    return _in_range(array, field, spec)


def _in_range(array: npt.NDArray[Any], field: str, spec: dict[str, Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype=spec["dtype"])
    low = -np.inf if spec["low"] is None else spec["low"]
    high = np.inf if spec["high"] is None else spec["high"]
    if array.dtype.kind == "u" and spec["dtype"] == "int64":
        high = min(high, np.iinfo(np.int64).max)
        cast = np.where(array > high, np.iinfo(np.int64).min, cast)
        low = max(low, np.iinfo(np.int64).min + 1)
    good = np.isfinite(cast) & (cast >= low) & (cast <= high)
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        place = "".join(f"[{i}]" for i in index)
        bounds = f" from {low} to {high}" if np.isfinite([low, high]).any() else ""
        raise BadRequest(f"{field}{place}", f"is {array[index]}; expected a finite number{bounds}")
    return cast


def _task(value: Any, bundle: dict[str, Any]) -> int:
    if value is None:
        return ROUTE
    names = [task["name"] for task in bundle["tasks"]]
    if value not in names:
        known = ", ".join(map(repr, names))
        raise BadRequest("task", f"no task {str(value)[:100]!r}; expected one of {known}, or none to route")
    return names.index(value)


def _threshold(value: Any, bundle: dict[str, Any]) -> float:
    """What was sent, else the calibrated threshold of the bundle, which is 0 if nobody asked for one."""
    if value is None:
        return float(bundle.get("routing", {}).get("threshold", 0.0))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise BadRequest("threshold", f"is {str(value)[:100]}; expected a number from 0 to 1")
    return float(value)


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a string" if isinstance(value, str) else f"{value!r}"[:100]
