"""Which columns of a tensor belong to which neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from eideticnet.program import Features

Widths = Mapping[str, int]
"""Neurons owned in each feature group, and under ``HEAD`` the number of classes."""


def kept_columns(features: Features, widths: Widths, keep: Mapping[str, Tensor]) -> Tensor:
    """Indices of the columns that the kept neurons fill; ``keep`` holds sorted indices by group,
    a group that is not in it is kept whole."""
    kept, start = [], 0
    for run in features.runs:
        width = widths[run.group]
        neurons = keep.get(run.group, torch.arange(width)).cpu()
        kept.append((start + neurons[:, None] * run.repeat + torch.arange(run.repeat)).flatten())
        start += width * run.repeat
    once = torch.cat(kept)
    return (torch.arange(features.tile)[:, None] * start + once).flatten()


def by_neuron(features: Features, widths: Widths, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """``values`` (columns, ...) taken apart: for each run its group and (n, whatever a neuron has)."""
    tiles = values.reshape(features.tile, -1, *values.shape[1:])
    start = 0
    for run in features.runs:
        width = widths[run.group]
        mine = tiles[:, start : start + width * run.repeat]
        each = run.repeat * prod(values.shape[1:])
        yield run.group, mine.reshape(features.tile, width, each).transpose(0, 1).flatten(1)
        start += width * run.repeat
