"""JSON as archives hold it, read strictly: no key twice, no NaN, no later schema, nothing of another type.

Imports neither torch nor eideticnet, but for the models of the contract.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from eideticnet.contract.bundle import SCHEMA, Bundle
from eideticnet.contract.parts import told
from eideticnet.export.errors import ArchiveError

Model = TypeVar("Model", bound=BaseModel)
_INT64 = 1 << 63
_LONGEST = 300
_DEEPEST = 64


def parse_json(data: bytes, what: str) -> Any:
    """Strict JSON: Unicode, no key twice, no NaN or infinity, integers of 64 bits, shallow."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_int=_bounded,
            parse_float=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode()  # not half a character, as "\\ud800" is
    except RecursionError:
        raise ArchiveError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ArchiveError(f"{what} is no strict JSON: {str(error)[:_LONGEST]}") from None
    if _is_deep(value):
        raise ArchiveError(f"{what} is nested too deeply")
    return value


def _is_deep(value: Any) -> bool:
    """Whether containers stand in more than ``_DEEPEST`` others: too deep to be shown in an error."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [v for outer in level for v in _children(outer)]
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object holds the key {key!r} twice")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _bounded(text: str) -> int:
    if len(text) > 20 or not -_INT64 <= int(text) < _INT64:
        raise ValueError(f"the integer {text[:20]} has more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"the number {text[:20]} is beyond what 64 bits hold")
    return float(text)


def read_bundle(data: bytes) -> Bundle:
    """The checked content of ``bundle.json``. ``ArchiveError`` names the place and what is expected."""
    found = parse_json(data, "bundle.json")
    version = found.get("schema") if isinstance(found, dict) else None
    version = ascii(version[:20])[1:-1] if isinstance(version, str) else ""
    major = version.partition(".")[0]
    if major.isdecimal() and major != SCHEMA[0]:
        raise ArchiveError(
            f"bundle.json has schema {version}; this version reads schema {SCHEMA[0]}, "
            "so use the release that wrote it, or export again"
        )
    return checked(Bundle, found, "bundle.json")


def checked(kind: type[Model], found: Any, what: str) -> Model:
    """``found`` as a ``kind``; ``ArchiveError`` says what is wrong with it, and in which file."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise ArchiveError(f"{what}: {told(error, kind, found)}") from None
