"""CIFAR-10 and CIFAR-100 in their official binary versions: images (3, 32, 32) of bytes, red, green, blue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eideticnet.errors import DataError
from eideticnet.experiments.fetching import Published, found
from eideticnet.experiments.selecting import Rows, first_of, known

SHAPE = (3, 32, 32)
PAGE = "https://www.cs.toronto.edu/~kriz"


class _Version(NamedTuple):
    """One of the two: its archive, the files of each part, and how many bytes of labels a record has."""

    source: Published
    folder: str
    parts: dict[str, list[str]]
    labels: int


CIFAR10 = _Version(
    Published(
        f"{PAGE}/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        archive=True,
    ),
    "cifar-10-batches-bin",
    {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    1,
)
CIFAR100 = _Version(
    Published(
        f"{PAGE}/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        archive=True,
    ),
    "cifar-100-binary",
    {"train": ["train.bin"], "test": ["test.bin"]},
    2,
)


def ten(classes: Sequence[int], part: str = "train", images: int | None = None) -> Rows:
    """CIFAR-10: raw pixels (N, 3, 32, 32) from 0 to 255 of the first ``images`` of each class, by default of
    all, and labels (N,) numbered in the order of ``classes``."""
    return first_of(*_read(CIFAR10, part), classes, images)


def hundred(classes: Sequence[int] = range(100), part: str = "train", images: int | None = None) -> Rows:
    """CIFAR-100 with its fine labels, likewise."""
    return first_of(*_read(CIFAR100, part), classes, images)


def _read(version: _Version, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    known("part", part, version.parts)
    folder = found([version.folder], version.source)
    return _records(tuple(folder / name for name in version.parts[part]), version.labels)


@lru_cache(4)
def _records(files: tuple[Path, ...], labels: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All images (N, 3, 32, 32) of ``files``, and their labels (N,): the last byte before the pixels."""
    size, parts = labels + int(np.prod(SHAPE)), []
    for file in files:
        try:
            parts.append(np.fromfile(file, np.uint8))
        except OSError as error:
            raise DataError(f"can't read {file}: {error.strerror}; get it again") from None
        if not len(parts[-1]) or len(parts[-1]) % size:
            raise DataError(
                f"{file} holds {len(parts[-1])} bytes, no whole number of {size} each; get it again"
            )
    records = np.concatenate(parts).reshape(-1, size)
    return records[:, labels:].reshape(-1, *SHAPE), records[:, labels - 1].astype(np.int64)
