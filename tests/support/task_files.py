"""The data files of a user with three small tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from tests.support.small_networks import task_data


def write_npz(path: Path, seed: int, classes: int) -> None:
    x, y = task_data(seed, classes, 60)
    np.savez(path, x=x.numpy(), y=y.numpy())


def write_tasks(folder: Path) -> None:
    """birds and frogs of two classes, fish of three."""
    write_npz(folder / "birds.npz", 1, 2)
    write_npz(folder / "frogs.npz", 3, 2)
    x, y = task_data(2, 3, 60)
    save_file({"x": x, "y": y}, folder / "fish.safetensors")
