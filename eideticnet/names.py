"""Names of tasks and classes, and numbers: what is meant is converted, the rest refused at once.

Names go into checkpoints, archives, JSON answers, tables and terminals, so these rules are those of
``bundle.json`` (``export/archive/contract.py``): what is learned here can be exported and served.
"""

from __future__ import annotations

import operator
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from eideticnet.errors import DataError

LONGEST = 200
_RESERVED = ("router", "total", "free")
"""They stand beside tasks in tables."""


def plain(value: Any) -> Any:
    """A tensor or a value of numpy as Python's own: a number, a string, or nested lists of them."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    return value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value


def whole(value: Any, what: str, least: int | None = None) -> int:
    """``value`` as an ``int``, of any library; ``DataError`` for anything else."""
    try:
        number = operator.index(plain(value))
    except TypeError:
        raise DataError(f"{what}={value!r}: give a whole number") from None
    if least is not None and number < least:
        raise DataError(f"{what}={number}: give a whole number from {least}")
    return number


def expected(what: str, value: Any, *kinds: type) -> None:
    """Raise ``DataError`` unless the argument ``what`` is of one of these ``kinds``."""
    if not isinstance(value, kinds):
        wanted = " or ".join("None" if k is type(None) else f"{k.__name__}(...)" for k in kinds)
        raise DataError(f"{what} is {value!r:.40}: give {wanted}")


def task_name(name: Any) -> str:
    """``name`` as a plain string."""
    if not isinstance(name, str):
        raise DataError(f"a task's name is a string, got {name!r}; use {str(plain(name))!r}")
    name = str.__str__(name)  # of an Enum's member, too
    if name in _RESERVED or "(revision" in name:
        raise DataError(f"{name!r} can't be a task's name; choose another")
    return _checked(name, "a task's name")


def class_names(classes: Any, task: str) -> tuple[str, ...]:
    """Names of classes from strings, numbers or booleans, in any ordered collection.

    Numbers become the text of what they are: ``np.unique([0, 1])`` gives "0" and "1".
    """
    where = f"task {task!r}: classes"
    values = plain(classes)
    if isinstance(values, (str, bytes, set, frozenset, Mapping)) or not isinstance(values, Iterable):
        raise DataError(
            f"{where} must be two or more different names in the order of the labels, got {values!r:.80}; "
            "give a list such as ['cat', 'dog']"
        )
    names = tuple(_class_name(plain(value), where) for value in values)
    twice = _twice(names)
    if len(names) < 2 or twice:
        found = f"{twice!r} twice" if twice else f"{len(names)} of them"
        raise DataError(f"{where} must be two or more different names, got {found}")
    return names


def _class_name(value: Any, where: str) -> str:
    if type(value) in (int, float, bool) and value == value:  # nan is no name of anything
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{where} must be names (strings) or numbers, got {value!r:.80}")
    return _checked(str.__str__(value), where)


def _checked(name: str, what: str) -> str:
    """``str.isprintable`` refuses control characters, line ends, lone surrogates, and marks that turn the
    direction of writing or take no width, with which one name could look like another."""
    if not name.strip() or not name.isprintable() or len(name) > LONGEST:
        shown = ascii(name if len(name) <= 40 else name[:40] + "...")
        raise DataError(f"{what} can't be {shown}: use 1 to {LONGEST} printable characters, not only spaces")
    return name


def same(a: str, b: str) -> bool:
    """Whether two names read alike: é may be one code point or two."""
    return unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b)


def _twice(names: Iterable[str]) -> str:
    counts = Counter(unicodedata.normalize("NFC", name) for name in names)
    return next((name for name, count in counts.items() if count > 1), "")
