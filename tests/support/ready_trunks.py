"""The ready trunks, made small."""

from __future__ import annotations

import torch
from torch import Tensor

from eideticnet import models

SMALL = {
    "mlp": lambda: models.mlp(192, (12, 10), dropout=0.1, batch_norm=True),
    "convnet": lambda: models.convnet(3, (6, 8), pool_every=1),
    "resnet18": lambda: models.resnet18(width=4, low_resolution=True),
    "vit_tiny": lambda: models.vit_tiny(8, 4, width=16, depth=2, heads=4),
    "lstm": lambda: models.lstm(11, width=6, hidden=8, layers=2, dropout=0.1),
}


def inputs(kind: str, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    if kind == "lstm":
        return torch.randint(0, 11, (rows, 7), generator=generator)
    return torch.randn(rows, 3, 8, 8, generator=generator)
