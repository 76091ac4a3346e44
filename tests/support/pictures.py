"""A network that tells pictures apart, trained on PNG files, and such files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from eideticnet import EideticNetwork, ImageInput, Inputs, Routing, batches, models
from eideticnet.runs.images import read_folder
from tests.support.small_networks import LIGHT, QUICK

IMAGE = ImageInput((6, 5), "RGB", "bilinear", "CHW", 255.0)
INPUTS = Inputs(IMAGE.shape, low=0, high=1, image=IMAGE)
TASKS = {"warm": ["red", "yellow"], "cold": ["blue", "cyan"]}
_COLOURS = {"red": (220, 30, 30), "yellow": (220, 220, 30), "blue": (30, 30, 220), "cyan": (30, 220, 220)}


def picture(colour: str, seed: int, size: tuple[int, int] = (9, 8), kind: str = "PNG") -> bytes:
    """A noisy picture of one colour, ``size`` wide and high, as a file."""
    rng, file = np.random.default_rng(seed), io.BytesIO()
    pixels = np.asarray(_COLOURS[colour]) + rng.integers(-30, 31, (size[1], size[0], 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def write_pictures(folder: Path, count: int = 12, first: int = 0) -> None:
    """A folder for each class, with ``count`` pictures of several sizes."""
    for number, colour in enumerate(_COLOURS):
        (folder / colour).mkdir(parents=True)
        for i in range(count):
            (folder / colour / f"{i:02}.png").write_bytes(
                picture(colour, first + 100 * number + i, (5 + i, 17 - i))
            )


def network(folder: Path) -> EideticNetwork:
    """A network that learned the two tasks from files."""
    write_pictures(folder)
    data = {name: read_folder(folder, classes, INPUTS, _COLOURS) for name, classes in TASKS.items()}
    loaders = {name: batches(x, y, 8) for name, (x, y) in data.items()}
    training = replace(QUICK, patience=4, max_epochs=8)  # which is what it takes to tell colours apart
    net = EideticNetwork(models.convnet(3, (6, 8), pool_every=1), data["warm"][0][:2], inputs=INPUTS, seed=0)
    for name, loader in loaders.items():
        net.train_task(name, loader, TASKS[name], training=training, pruning=LIGHT, when_full="reuse")
    net.fit_router(loaders, training=training, routing=Routing("block", "hard", LIGHT), when_full="reuse")
    return net
