"""From what ``predict`` is given to the requests that carry it, and from their answers to its own.

Written as coroutines, which blocking clients run too, since what they send with waits for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy.typing as npt

from eideticnet.client import options
from eideticnet.client.answers import Answer
from eideticnet.client.call import Call
from eideticnet.client.options import Options
from eideticnet.client.payload import JPEG, NPY, PNG, RAW, Input, Payload, encode, is_whole, numbers, stored
from eideticnet.serving.errors import MOST_BYTES, RequestError

Result: TypeAlias = dict[str, Any] | list[Answer]
Send: TypeAlias = Callable[[Call], Awaitable[Result]]
Known: TypeAlias = dict[tuple[str, int], int]
"""What a client has learned: how many instances one request to a model may hold, by its name and the number
of their array's dimensions."""

_ROOM = 4096  # bytes of a message beside the numbers: names, options, the head of a .npy file
_STARTS = 3
_PLACE = re.compile(r"(?P<name>body|data|instances)(?P<row>\[\d+\])?(?P<rest>(\[\d+\])*)")
_TOO_MANY = re.compile(r"holds (\d+) instances; expected at most (\d+)")


async def asking(model: str, x: Input, given: Options, timeout: float, known: Known, send: Send) -> Result:
    """What ``model`` answers about ``x``: by one request, or as many as the server's limits make of it."""
    time, kind = options.timed(given, timeout), options.text(given, "content_type")

    def ask(part: Payload, version: str) -> Awaitable[Result]:
        return send(Call(model, version, part, time, given, typed=not isinstance(x, Mapping)))

    async def together(parts: Sequence[Payload]) -> Result:
        return await _of_one_version(ask, parts, options.text(given, "version"))

    if isinstance(x, (list, tuple)) and x and all(map(is_whole, x)):
        whole = [encode(each, kind) for each in x]
        return await together([replace(p, alone=p.content_type in (PNG, JPEG)) for p in whole])
    if is_whole(x):
        part = encode(x, kind)
        try:
            return await together([part])
        except RequestError as error:
            parts = _cut_file(part, error)
        if isinstance(parts, list):
            return await together(parts)
        x = parts
    array = numbers(x)
    most = _fitting(array, known.get((model, array.ndim)))
    while True:
        try:
            return await together(_pieces(array, most, kind))
        except RequestError as error:
            held, allowed = _counts(error)
            if not array.ndim or held != min(most, len(array)) or not 0 < allowed < held:
                raise
            most = known[model, array.ndim] = allowed


async def _of_one_version(
    ask: Callable[[Payload, str], Awaitable[Result]], parts: Sequence[Payload], version: str
) -> Result:
    """All answers of one version: later parts name the one that answered the first. Should it go meanwhile,
    because another took over, all parts are asked again."""
    if len(parts) == 1:
        return await ask(parts[0], version)
    for start in range(1, _STARTS + 1):
        found: list[Answer] = []
        try:
            for part in parts:
                answers = await ask(part, found[0].model_version if found else version)
                found += cast(list[Answer], answers)
        except RequestError as error:
            if error.status != 404 or not found or version or start == _STARTS:
                raise _placed(error, len(found), part.alone) from None
        else:
            return found
    raise AssertionError("unreachable")


def _pieces(array: npt.NDArray[Any], most: int, kind: str) -> list[Payload]:
    if not array.ndim or len(array) <= most:
        return [_piece(array, kind)]
    cut = [_piece(array[first : first + most], kind) for first in range(0, len(array), most)]
    return [replace(piece, instances=piece.instances[1:]) for piece in cut]


def _piece(part: npt.NDArray[Any], kind: str) -> Payload:
    return replace(encode(part, kind), alone=kind == RAW and part.ndim > 0 and len(part) == 1)


def _placed(error: RequestError, first: int, alone: bool) -> RequestError:
    """``error`` about a piece, naming the place in the whole, of which ``first`` instances came before."""
    place = _PLACE.fullmatch(error.field)
    if place is None or not isinstance(error.body, dict) or not (alone or place["row"]):
        return error
    row, rest = (first, place["row"] or "") if alone else (first + int(place["row"][1:-1]), "")
    field = f"{place['name']}[{row}]{rest}{place['rest']}"
    return RequestError(error.status, {**error.body, "error": {**error.body["error"], "field": field}})


def _counts(error: RequestError) -> tuple[int, int]:
    """How many instances the request held, and may hold; zeros if that is not what ``error`` is about."""
    found = _TOO_MANY.search(error.message) if error.kind == "too_large" else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _cut_file(part: Payload, error: RequestError) -> list[Payload] | npt.NDArray[Any]:
    """A file that is too large in pieces, or as the array that it holds. ``error`` where neither can be."""
    held, allowed = _counts(error)
    if part.content_type == RAW and allowed:
        each = len(part.content) // held
        size = each * allowed
        pieces = [part.content[first : first + size] for first in range(0, each * held, size)]
        counts = [len(piece) // each for piece in pieces]
        return [
            Payload(piece, RAW, alone=count == 1, instances=(count,))
            for piece, count in zip(pieces, counts, strict=True)
        ]
    if part.content_type != NPY or error.kind != "too_large":
        raise error
    return stored(part.content)


def _fitting(array: npt.NDArray[Any], known: int | None) -> int:
    """How many rows of ``array`` one request may hold, as far as that is known."""
    if not array.ndim or not array.size:
        return 1
    fits = (MOST_BYTES - _ROOM) // (array.nbytes // len(array))
    return min(known or len(array), fits or len(array))


def run(asked: Coroutine[None, None, Result]) -> Result:
    """The result of a coroutine that waits for nothing."""
    try:
        asked.send(None)
    except StopIteration as end:
        return cast(Result, end.value)
    raise AssertionError("unreachable")
