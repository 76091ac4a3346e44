"""The two problems of ``make bench-routing``: five tasks of two digits each, small and large."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from benchmarks.train import INPUTS, TASKS
from eideticnet import Inputs, Pruning, Training, batches
from eideticnet.data.rows import Loader

NAMES = [f"{a} or {b}" for a, b in TASKS]
DATA = "EIDETIC_DATA"


@dataclass(frozen=True)
class Part:
    """Raw pixels (N, F) and digits (N,)."""

    x: Tensor
    y: Tensor

    def task(self, index: int, batch_size: int = 256) -> Loader:
        """The images of one task, labels numbered from 0."""
        wanted = torch.isin(self.y, torch.tensor(TASKS[index]))
        return batches(self.x[wanted], self.y[wanted] - TASKS[index][0], batch_size)

    def tasks(self, batch_size: int = 256, count: int = len(TASKS)) -> dict[str, Loader]:
        return {NAMES[i]: self.task(i, batch_size) for i in range(count)}

    def halves(self, share: float, seed: int) -> tuple[Part, Part]:
        """What is left, and a stratified ``share``."""
        x, other_x, y, other_y = train_test_split(
            self.x, self.y, test_size=share, random_state=seed, stratify=self.y
        )
        return Part(x, y), Part(other_x, other_y)


@dataclass(frozen=True)
class Split:
    """Nothing is trained on ``validation``, by which choices are made; ``test`` is read once."""

    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Problem:
    """A trunk, its data, and the recipe of everything that is trained on it, plain net included.

    ``memory``: examples of each old task, where the router has no more, 0 for no such rows.
    """

    name: str
    pixels: int
    hidden: tuple[int, int]
    inputs: Inputs
    training: Training
    batch_size: int
    pruning: Pruning
    seeds: tuple[int, ...]
    memory: int
    split: Callable[[int], Split]

    def recipe(self) -> str:
        """What results depend on, as text."""
        rule = {k: v for k, v in vars(self.training).items() if k != "optimizer"}
        return f"{self.hidden} {self.inputs} {rule} adam 1e-3 batch {self.batch_size} {self.pruning}"


def digits() -> Problem:
    """scikit-learn's 1,797 digits, in the test split of ``make bench-train``."""
    x, y = load_digits(return_X_y=True)
    everything = Part(torch.from_numpy(x.astype("float32")), torch.from_numpy(y))

    def split(seed: int) -> Split:
        rest, test = everything.halves(0.25, seed)
        return Split(*rest.halves(0.2, seed), test)

    training = Training(label_smoothing=0.1)
    pruning = Pruning(threshold=0.002, min_width=24)
    return Problem("digits5", 64, (256, 256), INPUTS, training, 64, pruning, tuple(range(10)), 20, split)


def served() -> Problem:
    """The network of ``make serve``: the same digits, everything by default."""
    return replace(digits(), training=Training(), pruning=Pruning())


def mnist(folder: Path) -> Problem:
    """MNIST's 60,000 and 10,000 images, from the idx files in ``folder``; beside each image that is
    trained on, a copy that is shifted by one pixel."""
    train, test = (_read(folder, part) for part in ("train", "t10k"))

    def split(seed: int) -> Split:
        rest, validation = train.halves(0.1, seed)
        x = torch.cat([rest.x, _shifted(rest.x, seed)])
        return Split(Part(x, rest.y.repeat(2)), validation, test)

    inputs = Inputs((784,), low=0.0, high=255.0, std=(255.0,))
    training = Training(patience=2, settle_patience=2, max_epochs=4, label_smoothing=0.1)
    pruning = Pruning(step=0.3, threshold=0.0005, recovery_epochs=1, min_width=64)
    return Problem("mnist5", 784, (400, 400), inputs, training, 256, pruning, (0, 1, 2), 0, split)


def _shifted(x: Tensor, seed: int) -> Tensor:
    """Images (N, 784), each moved to one of its eight neighbouring places."""
    around = torch.nn.functional.pad(x.view(-1, 28, 28), (1, 1, 1, 1))
    places = [(a, b) for a in range(3) for b in range(3) if (a, b) != (1, 1)]
    chosen = torch.randint(8, (len(x),), generator=torch.Generator().manual_seed(seed))
    moved = torch.empty(len(x), 28, 28)
    for i, (a, b) in enumerate(places):
        moved[chosen == i] = around[chosen == i, a : a + 28, b : b + 28]
    return moved.flatten(1)


def problems() -> list[Problem]:
    """Digits, and MNIST where the environment says where it is. ``FileNotFoundError`` if it isn't."""
    if DATA not in os.environ:
        print(f"mnist5 is left out: set {DATA} to a folder with mnist/train-images-idx3-ubyte.gz, ...")
        return [digits()]
    return [digits(), mnist(Path(os.environ[DATA]) / "mnist")]


def _read(folder: Path, part: str) -> Part:
    x = _idx(folder / f"{part}-images-idx3-ubyte.gz").flatten(1).float()
    return Part(x, _idx(folder / f"{part}-labels-idx1-ubyte.gz").long())


def _idx(path: Path) -> Tensor:
    """An array of bytes in the idx format: its rank in the fourth byte, then its shape."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; {DATA} has to name the folder that holds mnist/")
    raw = gzip.decompress(path.read_bytes())
    start = 4 + 4 * raw[3]
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4)]
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=start).reshape(shape)
