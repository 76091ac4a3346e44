"""Data sets of torchvision and of Hugging Face as sources of tasks: functions that a TOML file names.

    [[tasks]]
    name = "even or odd"
    classes = ["even", "odd"]
    data = "sources:hugging_face"
    arguments = { path = "ylecun/mnist", split = "train", groups = [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]] }

Images of different sizes want a folder of images instead, which `eidetic train` scales by itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset


def torchvision(name: str, groups: Sequence[Sequence[int]], **options: Any) -> "OfClasses":
    """A data set of `torchvision.datasets` by name, of which class i are the labels in `groups[i]`;
    `options`: what it is called with, such as `root`, `train` and `download`."""
    from torchvision import datasets

    return OfClasses(getattr(datasets, name)(**options), groups)


class OfClasses(Dataset):
    """The rows of `data`, pairs of an image and a label, that have one of the labels in `groups`."""

    def __init__(self, data: Dataset, groups: Sequence[Sequence[int]]) -> None:
        self.data = data
        self.number = {label: i for i, labels in enumerate(groups) for label in labels}
        labels = getattr(data, "targets", None)
        labels = [label for _, label in data] if labels is None else labels
        self.rows = [row for row, label in enumerate(labels) if int(label) in self.number]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image, label = self.data[self.rows[index]]
        return as_floats(image), self.number[int(label)]


def hugging_face(
    path: str,
    split: str,
    groups: Sequence[Sequence[int]],
    image: str = "image",
    label: str = "label",
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """A data set of the Hub, or of files (`path="parquet", data_files=...`), all rows at once."""
    from datasets import load_dataset

    number = {label: i for i, labels in enumerate(groups) for label in labels}
    data = load_dataset(path, split=split, **options)
    data = data.select([row for row, found in enumerate(data[label]) if found in number])
    return np.stack([as_floats(x) for x in data[image]]), np.array([number[y] for y in data[label]])


def as_floats(image: Any) -> np.ndarray:
    """An image of PIL as a float array (C, H, W) of 0 to 255."""
    pixels = np.asarray(image, np.float32)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
