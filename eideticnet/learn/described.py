"""Values in words that are the same in another process: by them two jobs are the same or not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import partial, singledispatch
from types import CodeType, FunctionType, MethodType
from typing import Any

from eideticnet.users_code import is_installed

_DEEP = 8
Words = Collection[str]


def described(value: object) -> str:
    """Its ``repr``, without addresses; of a user's function also the code, and the plain values that it
    names: in its closure, defaults and globals, in attributes and entries of what stands there."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)) + "".join(_behind(value, (), _DEEP))


@singledispatch
def _behind(value: Any, words: Words, deep: int) -> Iterator[str]:
    """What ``repr`` does not tell: of functions what they do, of other objects what ``words`` name."""
    parts = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    call = getattr(type(value), "__call__", None)  # noqa: B004
    if isinstance(call, FunctionType):
        yield from _behind(call, (), deep)
        words = {*words, *_words(call.__code__)}
    for word in sorted(words):
        if deep and word in parts:
            yield word
            yield from _behind(parts[word], words, deep - 1)


@_behind.register(bool | int | float | str | bytes | None)
def _(value: object, words: Words, deep: int) -> Iterator[str]:
    yield repr(value)


@_behind.register(tuple | list)
def _(value: Collection[Any], words: Words, deep: int) -> Iterator[str]:
    for part in value if deep else ():
        yield from _behind(part, words, deep - 1)


@_behind.register
def _(value: partial, words: Words, deep: int) -> Iterator[str]:  # type: ignore[type-arg]
    yield from _behind((value.func, value.args, value.keywords), {*value.keywords}, deep)


@_behind.register
def _(value: type, words: Words, deep: int) -> Iterator[str]:
    yield from _behind([part for part in vars(value).values() if isinstance(part, FunctionType)], words, deep)


@_behind.register
def _(value: MethodType, words: Words, deep: int) -> Iterator[str]:
    yield from _behind(value.__func__, words, deep)
    yield from _behind(value.__self__, _words(value.__func__.__code__), deep)


@_behind.register
def _(value: FunctionType, words: Words, deep: int) -> Iterator[str]:
    code = value.__code__
    if deep and not is_installed(code.co_filename):
        yield from _code(code)
        cells = [cell.cell_contents for cell in value.__closure__ or () if "empty" not in repr(cell)]
        for part in (cells, value.__defaults__, value.__kwdefaults__, value.__globals__):
            yield from _behind(part, _words(code), deep - 1)


def _code(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names}"
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _code(part)
        else:
            yield repr(sorted(map(repr, part))) if isinstance(part, frozenset) else repr(part)


def _words(code: CodeType) -> set[str]:
    """The names in it, and the texts, which may be keys."""
    inner = [_words(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {*code.co_names, *(p for p in code.co_consts if isinstance(p, str))}.union(*inner)
