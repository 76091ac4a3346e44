"""scikit-learn's bundled handwritten digits (1,797 images of 8x8), as tasks of a few digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits


def load(
    digits: Sequence[int], of: int = 1, parts: Sequence[int] = (0,)
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Raw pixels (N, 64) from 0 to 16 of the given digits, and labels (N,) numbered in their order; of each
    digit's images these ``parts`` of as many as ``of`` says."""
    bunch = load_digits()
    number = np.zeros(len(bunch.target), np.int64)  # among the images of the same digit
    for digit in digits:
        mine = bunch.target == digit
        number[mine] = np.arange(mine.sum())
    wanted = np.isin(bunch.target, digits) & np.isin(number % of, parts)
    label = {digit: i for i, digit in enumerate(digits)}
    y = np.array([label[int(t)] for t in bunch.target[wanted]], np.int64)
    return bunch.data[wanted].astype(np.float32), y
