"""What a loader holds, and what it is made of: the generators that it draws from, and what it counts."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
MOST, LONG = 10_000, 1_000
"""The most things that are looked at, the nearest first; a longer collection is data."""
_DATA = (Tensor, np.ndarray, np.generic, str, bytes, int, float, complex, type(None), type, ModuleType)
_GLOBALS = (torch.default_generator, np.random.mtrand._rand, random._inst)


def generators(owner: object) -> list[Generator]:
    """Those that ``owner`` holds; none of the process's."""
    return [
        part
        for part in _held(owner)
        if isinstance(part, Generator)
        and not isinstance(part, random.SystemRandom)
        and not any(part is known for known in _GLOBALS)
    ]


@contextmanager
def unmoved(owner: object) -> Iterator[None]:
    """What ``owner`` and its parts hold is afterwards what it was, as far as those are plain attributes,
    dicts and lists: they count, say, how often they are read."""
    kept = [(where, where.copy()) for where in map(_changing, _held(owner)) if where is not None]
    try:
        yield
    finally:
        for where, before in kept:
            if isinstance(where, dict):
                where.update({k: v for k, v in before.items() if where.get(k) is not v})
            elif len(where) != len(before) or any(a is not b for a, b in zip(where, before, strict=True)):
                where[:] = before


def _held(owner: object) -> list[object]:
    found, waiting = {id(owner): owner}, deque([owner])
    while waiting and len(found) < MOST:
        for part in _parts(waiting.popleft()):
            if id(part) not in found and not isinstance(part, _DATA):
                found[id(part)] = part
                waiting.append(part)
    return list(found.values())


def _parts(owner: Any) -> list[Any]:
    if isinstance(owner, Generator):
        return []
    if isinstance(owner, list | tuple | set | frozenset | deque | dict):
        if len(owner) > LONG:
            return []
        return list(owner.values() if isinstance(owner, dict) else owner)
    parts = list(_attributes(owner).values())
    if isinstance(owner, MethodType | BuiltinMethodType):
        parts += [owner.__self__, getattr(owner, "__func__", None)]
    elif isinstance(owner, partial):
        parts += [owner.func, owner.args, owner.keywords]
    elif isinstance(owner, FunctionType):
        parts += owner.__defaults__ or ()
        with suppress(ValueError):  # a cell that is empty yet
            parts += [cell.cell_contents for cell in owner.__closure__ or ()]
    return parts


def _attributes(owner: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _changing(part: Any) -> Any:
    """The dict or list of ``part`` that may change."""
    mine = part if type(part) in (dict, list) else _attributes(part)
    return mine if 0 < len(mine) <= LONG else None
