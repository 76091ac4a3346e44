"""MNIST as its makers publish it, in IDX files, gzipped or not: images as rows of 784 bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eideticnet.errors import DataError
from eideticnet.experiments.fetching import Published, found
from eideticnet.experiments.selecting import Rows, first_of, known

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"
"""The makers' own page gives no files any more; this is the mirror that torchvision takes them from."""
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
PARTS = {"train": "train", "test": "t10k"}


def load(
    classes: Sequence[int], part: str = "train", images: int | None = None, square: bool = False
) -> Rows:
    """Raw pixels (N, 784) from 0 to 255 of the first ``images`` of each class, by default of all, and labels
    (N,) numbered in the order of ``classes``; ``square``: pixels (N, 1, 28, 28)."""
    x, y = first_of(*read(part), classes, images)
    return (x.reshape(-1, 1, 28, 28) if square else x), y


def permuted(permutation: int, part: str = "train", images: int | None = None) -> Rows:
    """All ten digits, their pixels in the order that ``permutation`` decides, the same for every image; 0 is
    the order as it is. (To a network that is fully connected none is special, its weights being drawn alike
    for each pixel.)"""
    x, y = first_of(*read(part), range(10), images)
    if not permutation:
        return x, y
    return np.ascontiguousarray(x[:, np.random.default_rng(permutation).permutation(784)]), y


@lru_cache
def read(part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All images (N, 784) and digits (N,) of ``train`` or ``test``."""
    known("part", part, PARTS)
    x, y = (_idx(_file(f"{PARTS[part]}-{what}-ubyte")) for what in ("images-idx3", "labels-idx1"))
    if len(x) != len(y):
        raise DataError(f"MNIST's {part} files hold {len(x)} images and {len(y)} labels; get them again")
    return x.reshape(len(x), -1), y.astype(np.int64)


def _file(name: str) -> Path:
    zipped = f"{name}.gz"
    places = [f"{folder}{file}" for folder in ("mnist/", "MNIST/raw/", "") for file in (zipped, name)]
    return found(places, Published(f"{MIRROR}/{zipped}", SHA256[zipped]))


def _idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array of bytes: its rank in the fourth byte, then its shape, then its numbers."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"can't read {path}: {error}; get it again") from None
    start = 4 + 4 * raw[3] if len(raw) > 3 else 4
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4)]
    if raw[:3] != b"\0\0\x08" or len(raw) != start + math.prod(shape):
        raise DataError(f"{path} is no whole IDX file of bytes; get it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
