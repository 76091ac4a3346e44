"""A trunk pretrained on CIFAR-100: the first task of a network that later learns CIFAR-10.

Trained by one cycle of the learning rate on images that are flipped and shifted, in one process of one
thread if its caller says so; after each epoch all of it is kept beside the weights, so that it goes on where
it was interrupted.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eideticnet.models import convnet

WIDTHS = (32, 64, 128, 256, 512)
BATCH = 128
RATE = 0.1
DECAY = 5e-4


def trunk() -> nn.Sequential:
    """Five convolutions, a pool after each but the last: 18 million multiply-adds an image."""
    return convnet(3, WIDTHS, pool_every=1)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Normalised images (N, C, H, W), each flipped or not and shifted by up to four pixels."""
    count, side = len(x), x.shape[-1]
    flip = torch.rand(count, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    places = torch.randint(9, (2, count), generator=generator)[..., None] + torch.arange(side)
    rows = torch.arange(count)[:, None, None]
    return F.pad(x, (4, 4, 4, 4))[rows, :, places[0, :, :, None], places[1, :, None, :]].permute(0, 3, 1, 2)


def pretrain(x: Tensor, y: Tensor, classes: int, file: Path, epochs: int = 18, seed: int = 0) -> nn.Sequential:
    """The trunk after ``epochs`` over normalised ``x`` (N, 3, H, W) and ``y`` (N,), kept in ``file``."""
    torch.manual_seed(seed)
    model = nn.Sequential(trunk(), nn.Linear(WIDTHS[-1], classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), RATE, 0.9, weight_decay=DECAY, nesterov=True)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.25)
    begin = 0
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if file.exists():
        kept = torch.load(file, weights_only=True)
        begin = kept.pop("epoch")
        for name, part in parts.items():
            part.load_state_dict(kept[name])
    for epoch in range(begin, epochs):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        model.train()
        total = 0.0
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            if len(rows) == BATCH:
                batch = augmented(x[rows], generator).contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad()
                loss = F.cross_entropy(model(batch), y[rows])
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
        state = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch + 1}
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / (len(x) // BATCH):.3f}", flush=True)
    body = model[0]
    assert isinstance(body, nn.Sequential)
    return body.eval()
