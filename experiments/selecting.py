"""Some classes of a labelled set, and some of their images."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from eideticnet.errors import ConfigError, DataError
from eideticnet.users_code import nearest

Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Raw inputs (N, ...) and labels (N,)."""


def first_of(
    x: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], classes: Sequence[int], images: int | None
) -> Rows:
    """The first ``images`` of each of ``classes``, or all, in the order of ``x`` (N, ...); labels are
    numbered in the order of ``classes``."""
    chosen = []
    for label in classes:
        rows = np.flatnonzero(labels == label)[:images]
        if not len(rows):
            raise DataError(
                f"there is no image of class {label}; classes are {labels.min()} to {labels.max()}"
            )
        chosen.append(rows)
    number = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
    together = np.concatenate(chosen)
    order = together.argsort()
    return x[together[order]].astype(np.float32), number[order]


def known(what: str, value: str, names: Collection[str]) -> None:
    """``ConfigError`` unless ``value`` is one of ``names``."""
    if value not in names:
        near = nearest(str(value), names) or f"; use {' or '.join(names)}"
        raise ConfigError(f"{what} = {value!r}{near}")
