"""The user's own code: found beside the file that names it, called, and blamed by file and line."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

from eideticnet.errors import ConfigError, EideticError

TARGET = re.compile(r"(.*/)?([\w.]+):(\w+)")
"""``module:callable``, maybe with the folder in front that the module lies in."""

_PARTS = [
    importlib.util.find_spec(f"{__package__}{part}")
    for part in ("", ".export", ".serving", ".client", ".experiments")
]
_OTHERS = (
    *(place for part in _PARTS if part for place in part.submodule_search_locations or ()),
    *(sysconfig.get_path(p) for p in ("stdlib", "platstdlib", "purelib", "platlib")),
)
_brought: dict[str, dict[str, ModuleType]] = {}
"""The modules that the code of each folder brought along; another folder may have the same names."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the known word that ``word`` looks like, or nothing."""
    found = get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def located(target: str, folder: Path) -> str:
    """``module:callable`` with the folder in front that the module lies in: ``folder``, of the file that
    names it, or else the working directory. What is installed stays as it is."""
    match = TARGET.fullmatch(target)
    if match is None or match[2].partition(".")[0] == __package__:
        return target
    places = [p for p in (folder / (match[1] or ""), Path()) if _files(p, match[2])]
    return f"{places[0].resolve()}/{match[2]}:{match[3]}" if places else target


def unlocated(target: str) -> str:
    """The inverse of ``located``: two runs of one configuration may lie in different folders."""
    match = TARGET.fullmatch(target)
    return target if match is None else f"{match[2]}:{match[3]}"


def _files(folder: Path, module: str) -> list[Path]:
    """The file that ``module`` is read from if it lies in ``folder``, if it does."""
    stem = folder / module.replace(".", "/")
    return [file for file in (stem / "__init__.py", Path(f"{stem}.py")) if file.is_file()]


def import_callable(what: str, target: str) -> Callable[..., Any]:
    """The callable that ``target`` names; ``what`` it is for stands first in each ``ConfigError``."""
    match = TARGET.fullmatch(target)
    if match is None or match[2].endswith(".py"):
        words = [w for w in re.split(r"\W+", target.removesuffix(".py")) if w and w != "py"]
        example = ":".join(words[-2:]) if len(words) > 1 else "my_module:build"
        raise ConfigError(f"{what} {target!r}: write it as module:callable, such as {example!r}")
    folder, module, name = match.groups()
    what = f"{what} {unlocated(target)!r}"
    with blamed(what), _as_seen_from(folder):
        found = getattr(_imported(what, module, folder), name, None)
    if found is None:
        names = [n for n, v in vars(sys.modules[module]).items() if callable(v)]
        raise ConfigError(f"{what}: {module} has no {name!r}{nearest(name, names)}")
    if not callable(found):
        raise ConfigError(f"{what} is no callable but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _imported(what: str, module: str, folder: str | None) -> ModuleType:
    meant = _files(Path(folder), module) if folder else []
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the user's own import
        if not meant:
            raise ConfigError(_no_module(what, module, folder)) from error
        found = None
    if meant and not meant[0].samefile(getattr(found, "__file__", None) or "/"):
        raise ConfigError(
            f"{what}: Python already has another {module.partition('.')[0]!r}; give yours beside the TOML "
            "file another name"
        )
    assert found is not None, "what is meant was found"
    return found


def _no_module(what: str, module: str, folder: str | None) -> str:
    near = nearest(module, [p.stem for p in Path(folder or "").glob("*.py") if p.is_file()])
    return (
        f"{what}: there is no {module.replace('.', '/')}.py beside the TOML file or in {Path.cwd()}, and no "
        f"module {module!r} is installed{near}"
    )


def call(what: str, target: str, arguments: Mapping[str, Any]) -> Any:
    """What the user's callable returns; ``ConfigError`` says what was called, where it failed, and why."""
    function = import_callable(what, target)
    what = f"{what} {unlocated(target)!r}"
    _check_arguments(what, function, arguments)
    with blamed(what), _as_seen_from(target.rpartition("/")[0]):
        return function(**arguments)


def _check_arguments(what: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some built-in callables have none
    try:
        signature.bind(**arguments)
    except TypeError as error:
        unknown = [name for name in arguments if name not in signature.parameters]
        text = f"there is no argument {unknown[0]!r}" if unknown else str(error)
        near = nearest(unknown[0], signature.parameters) if unknown else ""
        raise ConfigError(f"{what}: {text}; its arguments are {signature}{near}") from None


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Whatever is raised inside becomes one line that begins with ``what`` and names the user's file and
    line; our own errors stay as they are."""
    try:
        yield
    except EideticError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{what}: {blame(error)}") from error


def blame(error: BaseException) -> str:
    """``file:line: Type: message`` in one line, of the innermost line that is the user's, if there is one."""
    lines = str(error).strip().splitlines() or [""]
    line = lines[-1] if "Original Traceback" in str(error) else lines[0]  # of a DataLoader's worker
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    place = theirs(error)
    return f"{place}: {text}" if place else text


def theirs(error: BaseException) -> str:
    """``file:line`` of the innermost line of the user's code that ``error`` went through, or nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.relpath(error.filename)}:{error.lineno}"
    frames = [(f.f_code.co_filename, line) for f, line in walk_tb(error.__traceback__)]
    users = [(file, line) for file, line in frames if _is_theirs(file)]
    return f"{os.path.relpath(users[-1][0])}:{users[-1][1]}" if users else ""


def _is_theirs(file: str | None) -> bool:
    return bool(file) and not str(file).startswith("<") and not is_installed(str(file))


def is_installed(file: str) -> bool:
    """Whether it is a library's, or this package's."""
    return file.startswith(_OTHERS)


@contextmanager
def _as_seen_from(folder: str | None) -> Iterator[None]:
    """Let imports look into ``folder`` first, then into the working directory, and nothing that another
    folder brought along hide what is there. Both stay on the path, last of all: code may import later."""
    places = [str(Path(place).resolve()) for place in (folder, ".") if place]
    mine = _brought.get(places[0], {})
    forget()
    sys.modules.update(mine)
    before, path = set(sys.modules), sys.path
    path[:0] = places
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for place in places:
            if place in path:
                path.remove(place)
        path += [place for place in places if place not in path]
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if _is_theirs(file) and any(Path(place) in Path(file).parents for place in places):
                mine[name] = sys.modules[name]
        _brought[places[0]] = mine


def forget(all_of_it: bool = False) -> None:
    """Take the modules that users' folders brought out of the way; with ``all_of_it`` they are imported
    again."""
    for name in [name for modules in _brought.values() for name in modules]:
        sys.modules.pop(name, None)
    if all_of_it:
        _brought.clear()
