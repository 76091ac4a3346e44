"""Data sets in the formats that their makers publish, a few rows each, and an experiment on them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

TOML = """
name = "tiny"

[trunk]
target = "eideticnet.models:mlp"
arguments = { inputs = 784, hidden = [12, 12] }

[input]
shape = [784]
low = 0.0
high = 255.0
std = [255.0]

[training]
batch_size = 16
patience = 1
settle_patience = 1
max_epochs = 3

[pruning]
step = 0.4
threshold = 0.2
recovery_epochs = 1

[routing]
router = "linear"

[experiment]
title = "Tiny"
"""
TASK = """
[[tasks]]
name = "{0} or {1}"
classes = ["{0}", "{1}"]
data = "eideticnet.experiments.mnist:load"
arguments = {{ classes = [{0}, {1}] }}
test = "eideticnet.experiments.mnist:load"
test_arguments = {{ classes = [{0}, {1}], part = "test" }}
"""


def write_experiment(folder: Path, text: str = "", tasks: int = 2) -> Path:
    """``tiny.toml`` with ``text`` in its table ``[experiment]``."""
    parts = [TOML, text, *(TASK.format(2 * i, 2 * i + 1) for i in range(tasks))]
    file = folder / "tiny.toml"
    file.write_text("\n".join(parts))
    return file


def write_mnist(folder: Path, zipped: bool = True, rows: int = 20) -> Path:
    """``rows`` images of each digit, in each part: noise, and a bar whose height tells the digit."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        y = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), rows))
        x = rng.integers(0, 60, (len(y), 28, 28), np.uint8)
        x[np.arange(len(y)), 2 * y + 4] = 255
        for what, array in (("images-idx3", x), ("labels-idx1", y)):
            shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
            raw = bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()
            name = f"{part}-{what}-ubyte"
            (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)
    return folder


def write_cifar(folder: Path, rows: int = 3) -> Path:
    """Both versions, ``rows`` images of each class in each file: all pixels of one are its label and the
    number of the file."""
    for name, files, classes in (
        ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], 10),
        ("cifar-100-binary", ["train.bin"], 100),
    ):
        (folder / name).mkdir(parents=True)
        test = "test_batch.bin" if classes == 10 else "test.bin"
        for number, file in enumerate([*files, test]):
            y = np.repeat(np.arange(classes, dtype=np.uint8), rows)[:, None]
            labels = y if classes == 10 else np.concatenate([y // 5, y], 1)
            pixels = np.repeat(y + number, 3072, 1)
            (folder / name / file).write_bytes(np.concatenate([labels, pixels], 1).tobytes())
    return folder


def write_imagenette(folder: Path, names: list[str], pictures: int = 12) -> Path:
    """``pictures`` of each class in each part, of which one channel is light."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for place, name in enumerate(names):
            inside = folder / "imagenette2-160" / part / name
            inside.mkdir(parents=True)
            for number in range(pictures):
                pixels = rng.integers(0, 90, (24, 32, 3), np.uint8)
                pixels[..., place % 3] += 120
                Image.fromarray(pixels).save(inside / f"{number}.JPEG")
    return folder
