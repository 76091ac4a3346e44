"""Images changed at random, batch by batch: x (N, C, H, W), or (N, H * W) of squares of one channel.

They draw from torch's numbers alone, so a run that goes on draws what it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def shift(x: Tensor, pixels: int = 1, edge: float = 0.0) -> Tensor:
    """Each image moved by up to ``pixels`` in both directions; ``edge`` fills what comes in."""
    return _images(x, lambda images: _shifted(images, pixels, edge))


def shift_and_flip(x: Tensor, pixels: int = 4, edge: float = 0.0) -> Tensor:
    """The same, and every second image or so turned left to right."""

    def change(images: Tensor) -> Tensor:
        turned = torch.rand(len(images), device=images.device) < 0.5
        return _shifted(torch.where(turned[:, None, None, None], images.flip(3), images), pixels, edge)

    return _images(x, change)


def _images(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``change`` of what rows are as images."""
    side = math.isqrt(x[0].numel())
    images = x if x.ndim == 4 else x.view(len(x), 1, side, side)
    return change(images).reshape(x.shape)


def _shifted(images: Tensor, pixels: int, edge: float) -> Tensor:
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, [pixels] * 4, value=edge)
    down, right = torch.randint(2 * pixels + 1, (2, count), device=images.device)
    rows = (down[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    place = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[place, channel, rows, columns]
