"""CIFAR-10 in its official binary version, as tasks of a few classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = "cifar-10-batches-bin"
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


def load(
    classes: Sequence[int], part: str = "train", images: int = 5000
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Raw pixels (N, 3, 32, 32) from 0 to 255 of the first ``images`` of each class, and labels (N,)
    numbered in the order of ``classes``; from the folder that ``EIDETIC_DATA`` names."""
    folder = Path(os.environ.get("EIDETIC_DATA", "data")) / FOLDER
    records = np.concatenate([np.fromfile(folder / name, np.uint8) for name in FILES[part]]).reshape(-1, 3073)
    rows = [np.flatnonzero(records[:, 0] == c)[:images] for c in classes]
    x = records[np.concatenate(rows), 1:].reshape(-1, 3, 32, 32).astype(np.float32)
    return x, np.repeat(np.arange(len(classes)), [len(r) for r in rows])
