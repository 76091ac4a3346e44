"""A trunk pretrained on CIFAR-100, for a network whose first task it is.

It is trained by one cycle of the learning rate, on images that are shifted and turned. After each epoch all
that it has learned is kept in the user's cache, so it goes on where it was interrupted, and is trained once.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eideticnet.experiments.cifar import hundred
from eideticnet.experiments.fetching import kept
from eideticnet.models import convnet

WIDTHS = (32, 64, 128, 256, 512)
CLASSES = 100
IMAGES, EPOCHS, BATCH = 45_000, 18, 128
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Of a configuration's ``[input]``, too."""


def frozen() -> nn.Sequential:
    """The trunk, none of whose weights is trained any further."""
    x, y = hundred()
    with kept("pretrained-cifar100") as file:
        body = pretrained(torch.from_numpy(x[:IMAGES]), torch.from_numpy(y[:IMAGES]), file)
    return body.requires_grad_(False)


def pretrained(x: Tensor, y: Tensor, file: Path, epochs: int = EPOCHS) -> nn.Sequential:
    """The trunk after ``epochs`` over raw images ``x`` (N, 3, H, W) of classes ``y`` (N,). What it has
    learned lies in ``file``."""
    torch.manual_seed(0)
    model = nn.Sequential(convnet(3, WIDTHS, pool_every=1), nn.Linear(WIDTHS[-1], CLASSES))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.25)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = torch.load(file, weights_only=True) if file.exists() else {"epoch": 0}
    for name, part in parts.items():
        if name in state:
            part.load_state_dict(state[name])
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for epoch in range(state["epoch"], epochs):
        generator = torch.Generator().manual_seed(epoch)
        model.train()
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            if len(rows) == BATCH:
                images = _moved(x[rows], generator).contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad()
                F.cross_entropy(model(images), y[rows]).backward()
                optimizer.step()
                schedule.step()
        state = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch + 1}
        torch.save(state, partial := file.with_suffix(".partial"))
        partial.replace(file)
    body = model[0].eval().to(memory_format=torch.contiguous_format)
    assert isinstance(body, nn.Sequential)
    return body


def _moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each turned left to right or not and shifted by up to four pixels."""
    turned = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(turned[:, None, None, None], x.flip(3), x)
    places = torch.randint(9, (2, len(x)), generator=generator)[..., None] + torch.arange(x.shape[-1])
    rows = torch.arange(len(x))[:, None, None]
    return F.pad(x, (4, 4, 4, 4))[rows, :, places[0, :, :, None], places[1, :, None, :]].permute(0, 3, 1, 2)
