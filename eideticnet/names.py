"""Names of tasks and classes, and numbers: what is meant is converted, the rest refused at once.

Names go by the rules of ``bundle.json``: what is learned here can be exported and served.
"""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from eideticnet.contract.bundle import LONGEST_NAME, is_name, twice
from eideticnet.errors import DataError

_RESERVED = ("router", "total", "free")
"""They stand beside tasks in tables."""


def plain(value: Any) -> Any:
    """A tensor or a value of numpy as Python's own: a number, a string, or nested lists of them."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    return value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value


def whole(value: Any, what: str, least: int | None = None) -> int:
    """``value`` as an ``int``, of any library; ``DataError`` for anything else."""
    number = plain(value)
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise DataError(f"{what}={value!r}: give a whole number")
    number = operator.index(number)
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
    again = twice(names)
    if len(names) < 2 or again:
        found = f"{again!r} twice" if again else f"{len(names)} of them"
        raise DataError(f"{where} must be two or more different names, got {found}")
    return names


def _class_name(value: Any, where: str) -> str:
    if type(value) in (int, float, bool) and value == value:  # nan is no name of anything
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{where} must be names (strings) or numbers, got {value!r:.80}")
    return _checked(str.__str__(value), where)


def _checked(name: str, what: str) -> str:
    if not is_name(name):
        shown, use = ascii(name if len(name) <= 40 else name[:40] + "..."), f"1 to {LONGEST_NAME} printable"
        raise DataError(f"{what} can't be {shown}: use {use} characters, not only spaces")
    return name


def same(a: str, b: str) -> bool:
    """Whether two names read alike: é may be one code point or two."""
    return same_form(a) == same_form(b)


def same_form(name: str) -> str:
    """A name in the form that all which read alike have."""
    return unicodedata.normalize("NFC", name)
