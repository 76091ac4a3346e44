"""Inputs that stand in the data more than once: under two labels, in two tasks, or held out as well."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from eideticnet.errors import DataError, DataWarning

Keys = np.ndarray[Any, np.dtype[np.uint64]]
NEARLY_ALL = 0.95
"""Share of rows that are also elsewhere, from which the data is taken to be the same."""
MANY = 0.01
"""And from which it is said."""


def keys_of(x: Tensor) -> Keys:
    """A number (N,) for each row of ``x`` (N, ...), the same for equal rows."""
    rows = x.detach().cpu().contiguous().flatten(1).numpy()
    digests = (blake2b(row + 0, digest_size=8).digest() for row in rows)  # where -0.0 becomes 0
    return np.frombuffer(b"".join(digests), np.uint64)


def contradicted(keys: Keys, labels: Tensor) -> int:
    """How many rows hold an input that also stands there with another label."""
    _, which = np.unique(keys, return_inverse=True)
    y = labels.numpy()
    lowest, highest = np.full(len(y), y.max()), np.full(len(y), y.min())
    np.minimum.at(lowest, which, y)
    np.maximum.at(highest, which, y)
    return int((lowest != highest)[which].sum())


def found_in(keys: Keys, others: Keys) -> int:
    """How many rows are among the others, too."""
    return int(np.isin(keys, others).sum())


def named(keys: Keys, labels: Tensor, classes: Sequence[str]) -> Keys:
    """A number (N,) for each row, the same for equal inputs under equal names."""
    names = [blake2b(name.encode(), digest_size=8).digest() for name in classes]
    found: Keys = keys ^ np.frombuffer(b"".join(names), np.uint64)[labels.numpy()]
    return found


def check_apart(tasks: Mapping[str, Keys], under_names: Mapping[str, Keys] | None = None) -> None:
    """``DataError`` if all inputs of a task, or nearly, are another's too, which no router can tell apart;
    ``DataWarning`` if many are. Where tasks share their labels those under one name, as ``named`` numbers
    them, are the same row twice and need not be told apart."""
    if len(tasks) < 2:
        return
    distinct, times = np.unique(np.concatenate([np.unique(k) for k in tasks.values()]), return_counts=True)
    inside = {name: np.isin(keys, distinct[times > 1]) for name, keys in tasks.items()}
    for one, other in combinations([name for name, mine in inside.items() if mine.any()], 2):
        counts = dict[str, tuple[int, int]]()
        for a, b in ((one, other), (other, one)):
            repeated = np.isin(tasks[a][inside[a]], tasks[b][inside[b]])
            if under_names is not None:
                repeated &= ~np.isin(under_names[a][inside[a]], under_names[b][inside[b]])
            counts[a] = int(repeated.sum()), len(tasks[a])
        name, (count, rows) = max(counts.items(), key=lambda item: item[1][0] / item[1][1])
        how = "" if under_names is None else " under other names of classes"
        found = f"tasks {one!r} and {other!r} hold the same inputs{how} ({count} of {rows} rows of {name!r})"
        if count >= NEARLY_ALL * rows:
            raise DataError(
                f"{found}, and no router can tell them apart; give each its own data, or ask by task, with "
                'router = "none" and decision = "entropy"'
            )
        if count >= MANY * rows:
            shared = '; if they are of the same classes, label_space="shared" lets these count as one'
            hint = shared if under_names is None else ""
            warnings.warn(f"{found}, which no router can tell apart{hint}", DataWarning, stacklevel=2)
