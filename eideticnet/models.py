"""Ready trunks: plain modules that end in features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp(
    inputs: int, hidden: Sequence[int] = (256, 256), *, dropout: float = 0.0, batch_norm: bool = False
) -> nn.Sequential:
    """Flatten, then Linear, BatchNorm1d (if asked), ReLU and Dropout (if any) for each width."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in zip((inputs, *hidden[:-1]), hidden, strict=True):
        layers.append(nn.Linear(before, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
