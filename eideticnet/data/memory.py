"""Examples kept of a task, by permission, so that a router can be learned without its data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eideticnet.data.rows import Rows
from eideticnet.seeding import derive


@dataclass(frozen=True)
class Examples:
    """Raw inputs ``x`` (K, *shape) and class indices ``y`` (K,)."""

    x: Tensor
    y: Tensor


def choose_examples(rows: Rows, count: int, *seed: object) -> Examples:
    """``count`` examples of ``rows``, as many of each class (one more of the first where that
    doesn't divide), each one as likely as any other of its class. Fewer where a class has fewer."""
    classes = len(rows.classes)
    quotas = [count // classes + (c < count % classes) for c in range(classes)]
    kept: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * classes
    lottery = torch.Generator().manual_seed(derive(*seed, "memory"))
    for x, y in ((x.cpu(), y.cpu()) for x, y in rows.batches(*seed, "memory")):
        tickets = torch.rand(len(y), generator=lottery)
        for c, quota in enumerate(quotas):
            mine = y == c
            kept[c] = _first(quota, kept[c], (tickets[mine], x[mine]))
    found = [x for _, x in kept]
    y = torch.cat([torch.full((len(x),), c) for c, x in enumerate(found)])
    return Examples(torch.cat(found), y)


def _first(quota: int, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The ``quota`` rows of both with the lowest tickets."""
    tickets = torch.cat([a[0], b[0]])
    x = torch.cat([a[1], b[1]]) if len(a[0]) else b[1]
    best = tickets.argsort(stable=True)[:quota]
    return tickets[best], x[best].clone()
