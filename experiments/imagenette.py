"""Imagenette, ten classes of ImageNet in folders of pictures, each called by its WordNet number."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eideticnet.experiments.fetching import Published, found
from eideticnet.experiments.selecting import known
from eideticnet.inputs import ImageInput, Inputs
from eideticnet.runs.images import read_folder

NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
SOURCE = Published(
    "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
    "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    archive=True,
)
"""The version of 2019, its shorter sides 160 pixels."""
PARTS = {"train": "train", "test": "val"}


def load(classes: Sequence[str], part: str = "train", size: int = 128) -> tuple[Tensor, Tensor]:
    """All pictures of ``classes``, named as in ``NAMES``, resized to squares: x (N, 3, size, size) from 0 to
    1, y (N,) numbered in the order of ``classes``."""
    known("part", part, PARTS)
    for name in classes:
        known("class", name, NAMES.values())
    numbers = {name: number for number, name in NAMES.items()}
    image = ImageInput((size, size))
    folder = found(["imagenette2-160", "imagenette2"], SOURCE) / PARTS[part]
    return read_folder(folder, [numbers[name] for name in classes], Inputs(image.shape, image=image), NAMES)
