"""What is wrong with a TOML file, in words: where, what was found, and the key or value that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from eideticnet.contract.parts import in_words
from eideticnet.errors import ConfigError
from eideticnet.users_code import nearest

Model = TypeVar("Model", bound=BaseModel)
_QUOTED = re.compile(r"'([^']+)'")
Problem = dict[str, Any]
Place = tuple[int | str, ...]


def validate(kind: type[Model], data: dict[str, Any], source: object) -> Model:
    """``data`` as a ``kind``; ``ConfigError`` lists everything that is wrong, in one line."""
    try:
        made = kind.model_validate(data)
    except ValidationError as error:
        found = dict[Place, list[str]]()
        for each in map(dict, error.errors()):
            found.setdefault(_place(each, data), []).append(_problem(kind, data, each))
        deepest = [p for p in found if not any(q[: len(p)] == p != q for q in found)]
        problems = [f"{_found(p, data)}{' or'.join(dict.fromkeys(found[p]))}".lstrip(": ") for p in deepest]
        raise ConfigError(f"{source}: " + "; ".join(problems)) from None
    if turned := [f"{_found(p, data)}: it should be {what}" for p, what in _turned(data, made.model_dump())]:
        raise ConfigError(f"{source}: " + "; ".join(turned))
    return made


def _turned(given: Any, made: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """The values that pydantic turned into another type, and what they should be: true is no number, and
    "5" is none. Numbers may name classes."""
    if isinstance(given, dict | list) and isinstance(made, dict | list | tuple):
        keys = given if isinstance(given, dict) else range(len(given))
        for key in keys:
            yield from _turned(given[key], made[key], (*place, key))
    elif isinstance(given, bool) is not isinstance(made, bool):
        yield (
            place,
            "true or false" if isinstance(made, bool) else "text" if isinstance(made, str) else "a number",
        )
    elif isinstance(given, str) and isinstance(made, int | float):
        yield place, "a number"


def _found(place: Place, data: dict[str, Any]) -> str:
    """The place, and what it holds where that is short."""
    value: Any = data
    for name in place:
        value = value.get(name) if isinstance(value, dict) else value[name]
    shown = "" if value is None or isinstance(value, dict | list) else f" = {_short(value)}"
    return f"{where(place, data)}{shown}" if place else ""


def where(place: Place, data: dict[str, Any]) -> str:
    """``[table] key``, as a TOML file has it, and the task by its name."""
    if place[:1] == ("tasks",) and len(place) > 1:
        task = data["tasks"][place[1]]
        name = task.get("name", f"number {int(place[1]) + 1}") if isinstance(task, dict) else task
        head, rest = f"[[tasks]] {_short(name)}", place[2:]
    elif place and isinstance(data.get(str(place[0])), dict):
        head, rest = f"[{place[0]}]", place[1:]
    else:
        head, rest = "", place
    return " ".join(part for part in (head, ".".join(map(str, rest))) if part)


def _place(error: Problem, data: Any) -> Place:
    """Where the error lies in the file: pydantic also names which member of a union it tried."""
    place: Place = ()
    for name in error["loc"]:
        try:
            data = data[name]
        except (KeyError, IndexError, TypeError):
            return (*place, name) if error["type"] == "missing" else place
        place = (*place, name)
    return place


def _problem(kind: type[BaseModel], data: dict[str, Any], error: Problem) -> str:
    """What is wrong there, to be read after the place."""
    place, value = _place(error, data), error["input"]
    match error["type"]:
        case "missing":
            return " is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f": there is no such key{_hint(kind, place)}"
        case "literal_error":
            expected = error["ctx"]["expected"]
            return f": use {expected}{nearest(str(value), _QUOTED.findall(expected))}"
        case "tuple_type" if place == ("tasks",):
            return ": write [[tasks]], in two pairs of brackets, once for each task"
        case "model_type" | "dataclass_type" if isinstance(value, list):
            return f": write [{place[-1]}], in one pair of brackets"
        case "model_type" | "dataclass_type" | "dict_type":
            return ": it should be a table"
    return f": {in_words(error)}"


def _hint(kind: type[BaseModel], place: Place) -> str:
    """Where the key at ``place`` belongs, or the nearest one that is known there, or all of them."""
    tables = dict(_tables(kind))
    key, table = str(place[-1]), ".".join(str(p) for p in place[:-1] if isinstance(p, str))
    known = tables.get(table, [])
    homes = [name for name, keys in tables.items() if key in keys]
    if homes:
        home = f"to [{homes[0]}]" if homes[0] else "at the top, before the first [table]"
        return f"; it belongs {home}"
    return nearest(key, known) or f"; known: {', '.join(known)}"


def _tables(kind: type, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """The keys of each table, by its dotted name."""
    keys = keys_of(kind)
    yield name, list(keys)
    for key, inner in keys.items():
        for part in (inner, *get_args(inner)):
            if isinstance(part, type) and (issubclass(part, BaseModel) or is_dataclass(part)):
                yield from _tables(part, f"{name}.{key}" if name else key)


def keys_of(kind: type) -> dict[str, Any]:
    """The keys of a table, each with its type."""
    if issubclass(kind, BaseModel):
        return {key: field.annotation for key, field in kind.model_fields.items()}
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What differs between two configurations: the key, what it was and what it is."""
    for place, was, now in _changes(before, after, ()):
        yield f"{where(place, after)} was {_short(was)} and is {_short(now)}"


def _changes(before: Any, after: Any, place: Place) -> Iterator[tuple[Place, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _changes(before.get(key), after.get(key), (*place, key))
    elif place == ("tasks",):
        for index, (was, now) in enumerate(zip(before, after, strict=False)):
            yield from _changes(was, now, (*place, index))
    elif before != after and not _has_moved(before, after):
        yield place, before, after


def _has_moved(before: Any, after: Any) -> bool:
    """Whether both are paths of one file, which is not where it was."""
    if not isinstance(before, str) or not isinstance(after, str) or "/" not in before:
        return False
    return Path(before).name == Path(after).name and not Path(before).exists() and Path(after).exists()


def _short(value: Any) -> str:
    return "not there" if value is None else _cut(repr(value))


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
