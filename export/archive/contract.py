"""``bundle.json``: the contract between training and serving, checked by both of them.

``bundle.schema.json`` says what it holds; what a JSON Schema can't say is here: which versions are
read, which names will do, and what is no strict JSON. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eideticnet.export.errors import ArchiveError

if TYPE_CHECKING:
    from jsonschema import ValidationError

SCHEMA = "1.5.0"
CONTRACT = json.loads(Path(__file__).with_name("bundle.schema.json").read_text(encoding="utf-8"))
_INT64 = 1 << 63
_LONGEST = 200
_LONGEST_MESSAGE = 300
_DEEPEST = 64


def parse_json(data: bytes, what: str) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN or infinity, integers of 64 bits, shallow."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_int=_bounded,
            parse_float=_finite,
        )
    except RecursionError:
        raise ArchiveError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ArchiveError(f"{what} is no strict JSON: {str(error)[:_LONGEST_MESSAGE]}") from None
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
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
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


def read_bundle(data: bytes) -> dict[str, Any]:
    """The checked content of ``bundle.json``. ``ArchiveError`` names the place and what is expected."""
    bundle = parse_json(data, "bundle.json")
    problem = problem_of(bundle)
    if problem:
        raise ArchiveError(problem)
    return dict(bundle)


def problem_of(bundle: Any) -> str:
    """What is wrong with the content of a ``bundle.json``; "" if nothing is."""
    version = bundle.get("schema") if isinstance(bundle, dict) else None
    version = ascii(version[:20])[1:-1] if isinstance(version, str) else ""
    major = version.partition(".")[0]
    if major.isdecimal() and major != SCHEMA[0]:
        return (
            f"bundle.json has schema {version}; this version reads schema {SCHEMA[0]}, "
            "so use the release that wrote it, or export again"
        )
    from jsonschema import Draft202012Validator  # late: who only reads JSON does without

    error = next(Draft202012Validator(CONTRACT).iter_errors(bundle), None)
    if error:
        return _told(error)
    return _name_problem(bundle) or _owner_problem(bundle) or _image_problem(bundle["input"])


def _told(error: ValidationError) -> str:
    steps = (f".{s}" if str(s).isidentifier() else f"[{s!r}]" for s in error.absolute_path)
    place = "".join(steps).removeprefix(".") or "the document"
    message = error.message
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:100]} ... {message[-100:]}"
    expected = error.schema.get("description") if isinstance(error.schema, dict) else None
    return f"bundle.json, {place}: {message}" + (f"; expected: {expected}" if expected else "")


def minor(bundle: dict[str, Any]) -> int:
    """The minor version of the schema that a checked ``bundle`` was written with."""
    return int(bundle["schema"].split(".")[1])


def names_problem(tasks: Iterable[tuple[str, Iterable[str]]]) -> str:
    """What is wrong with the names of tasks and of their classes, given as pairs; "" if nothing is.

    Names go into JSON answers, tables and terminals: any script, but nothing that can't be seen.
    ``str.isprintable`` refuses control characters, line ends, and the marks that turn the direction
    of writing or take no width, with which one name could look like another.
    """
    tasks = [(name, list(classes)) for name, classes in tasks]
    for text in (t for name, classes in tasks for t in (name, *classes)):
        if not text.strip() or not text.isprintable() or len(text) > _LONGEST:
            shown = ascii(text[:_LONGEST])
            return f"{shown} can't name a task or class: use up to {_LONGEST} printable characters"
    twice = _twice(name for name, _ in tasks)
    if twice:
        return f"two tasks are named {twice!r}"
    for name, classes in tasks:
        twice = _twice(classes)
        if twice:
            return f"task {name!r} has two classes named {twice!r}"
    return ""


def _twice(names: Iterable[str]) -> str:
    """A name that stands there twice, perhaps composed of other code points; "" if none does."""
    counts = Counter(unicodedata.normalize("NFC", name) for name in names)
    return next((name for name, count in counts.items() if count > 1), "")


def _name_problem(bundle: dict[str, Any]) -> str:
    problem = names_problem((task["name"], task["classes"]) for task in bundle["tasks"])
    for task in bundle.get("superseded", []):
        problem = problem or names_problem([(task["name"], task["classes"])])
    return f"bundle.json: {problem}" if problem else ""


def _owner_problem(bundle: dict[str, Any]) -> str:
    twice = _twice(task["owner"] for task in (*bundle["tasks"], *bundle.get("superseded", [])))
    return f"bundle.json: two tasks have the owner {twice!r}" if twice else ""


def _image_problem(spec: dict[str, Any]) -> str:
    if "image" not in spec:
        return ""
    image = spec["image"]
    shape = [{"RGB": 3, "L": 1}[image["mode"]], *image["size"]]
    expected = shape if image["layout"] == "CHW" else [math.prod(shape)]
    if (spec["shape"], spec["dtype"]) == (expected, "float32"):
        return ""
    return f"bundle.json, input: an image becomes float32 of shape {expected}, not what the input is"
