"""The options of a request: which task, how sure, how much is told, and until when.

They are spelled alike as JSON keys, fields of a form, query parameters, entries of gRPC's map, and, for
payloads that leave no room for them, as HTTP headers ``eidetic-NAME`` (percent-encoded UTF-8).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from eidetic_runtime.contract import Contract
from eidetic_runtime.errors import BadRequest
from eidetic_runtime.headers import OPTION

ROUTE = -1
NAMES = ("task", "threshold", "top_k", "probabilities", "deadline_ms")
LATEST = 253_402_300_800_000
"""The year 10000. What is later is no number of milliseconds: today in nanoseconds, or in microseconds."""
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(slots=True)
class RequestOptions:
    """``task`` is the index of the pinned task or -1; ``top_k`` 0 asks for no list; ``deadline_ms`` is
    Unix time."""

    task: int = ROUTE
    threshold: float = 0.0
    top_k: int = 0
    probabilities: bool = False
    deadline_ms: float | None = None


def from_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """The options that headers named ``eidetic-...`` hold."""
    found: dict[str, Any] = {}
    for key, value in headers.items():
        name = key[len(OPTION) :].lower().replace("-", "_")
        if name not in NAMES:
            raise BadRequest(key, f"unknown option; expected one of {', '.join(NAMES)}")
        if not value.isascii():  # UTF-8 comes as other characters: it was taken for Latin-1 on the way
            raise BadRequest(key, "is not in ASCII; expected percent-encoded UTF-8")
        try:
            found = merge(found, {name: from_text(name, unquote(value, errors="strict"))})
        except UnicodeDecodeError:
            raise BadRequest(key, "is not percent-encoded UTF-8") from None
    return found


def from_text(name: str, text: str | bytes | bytearray) -> Any:
    """The value that ``text`` stands for; the text itself where it stands for none."""
    try:
        if not isinstance(text, str):
            text = text.decode("utf-8")
        if "_" in text and name in ("threshold", "deadline_ms", "top_k"):
            return text  # which Python would take for a number
        if name in ("threshold", "deadline_ms"):
            return float(text)
        if name == "top_k":
            return int(text)
    except ValueError:
        return str(text)
    return _BOOLEANS.get(text.lower(), text) if name == "probabilities" else text


def merge(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Options from two places, which must not contradict each other."""
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            raise BadRequest(name, "is given twice, differently; give it once")
    return {**one, **other}


def read(given: Mapping[str, Any], contract: Contract) -> RequestOptions:
    """Check every option that was given. ``BadRequest`` also when the deadline has passed. Without a
    threshold it is the bundle's calibrated one, which is 0 if it was built without one."""
    found = {name: _READ[name](value, contract) for name, value in given.items() if value is not None}
    return RequestOptions(**{"threshold": contract.threshold, **found})


def _task(value: Any, contract: Contract) -> int:
    if not isinstance(value, str) or value not in contract.tasks:
        known = ", ".join(map(repr, contract.tasks))
        raise BadRequest("task", f"no task {str(value)[:100]!r}; expected one of {known}, or none to route")
    return contract.tasks[value]


def _threshold(value: Any, contract: Contract) -> float:
    if not 0 <= _number(value) <= 1:
        raise BadRequest("threshold", f"is {value!r:.100}; expected a number from 0 to 1")
    return float(value)


def _top_k(value: Any, contract: Contract) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadRequest("top_k", f"is {value!r:.100}; expected a whole number from 1")
    return value


def _probabilities(value: Any, contract: Contract) -> bool:
    if not isinstance(value, bool):
        raise BadRequest("probabilities", f"is {value!r:.100}; expected true or false")
    return value


def _deadline(value: Any, contract: Contract) -> float:
    if not 0 <= _number(value) < LATEST:
        raise BadRequest("deadline_ms", f"is {value!r:.100}; expected milliseconds of Unix time")
    late = time.time() * 1000 - value
    if late > 0:
        raise BadRequest("deadline_ms", f"passed {late:.0f} ms ago; nothing was computed", "expired")
    return float(value)


def _number(value: Any) -> float:
    """NaN, which is in no range, for what is no number."""
    return float(value) if type(value) is float or (type(value) is int and abs(value) < LATEST) else math.nan


_READ: dict[str, Callable[[Any, Contract], Any]] = {
    "task": _task,
    "threshold": _threshold,
    "top_k": _top_k,
    "probabilities": _probabilities,
    "deadline_ms": _deadline,
}
