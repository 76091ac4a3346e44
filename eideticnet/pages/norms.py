"""A norm over the prefix for all owners of a page at once.

Each owner has a mean and a variance of its own, over the columns that it reads: products with a constant
matrix that has a column for each owner. Squares are taken of distances from the mean over what the page's
first owner reads. The others read that too, so a mean far above the spread costs no digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from eideticnet.block import Block
from eideticnet.program import Program
from eideticnet.rules.norms import PrefixNorm


def read_alike(blocks: Sequence[Block], program: Program) -> bool:
    """Whether the norms of these blocks may be one: each reads the first, and what the first reads."""
    norms = [step for step in program.steps if step.rule == "prefix_norm"]
    first, others = blocks[0], blocks[1:]
    return all({first.owner, *first.read_in(s)} <= {*b.read_in(s)} for s in norms for b in others)


FURTHEST = 2.0**14
"""Deviations that a number is at most from the mean of its owner's columns: the root of how many there may
be. So clipping changes nothing, but gives a bound that can be read off the graph."""


class PageNorm(nn.Module):
    """Normalises (..., columns), or with positions (N, columns, ...), for each owner of a page.

    ``norms``: for each owner its norm, the columns that it reads, and where its own ones lie among the last
    ``written`` columns, which are the page's. There is room for ``most`` owners. It is made in float64.
    """

    def __init__(
        self,
        norms: Iterable[tuple[PrefixNorm, Sequence[int], Sequence[int]]],
        columns: int,
        written: int,
        most: int,
    ) -> None:
        super().__init__()
        self.written = written
        shares, lanes, weight, bias = (
            torch.zeros(*shape, dtype=torch.float64)
            for shape in ((columns, most), (most, written), (written,), (written,))
        )
        for number, (norm, read, own) in enumerate(norms):
            self.positions, self.root, self.eps = norm.positions, norm.root, norm.eps
            shares[read, number] = 1 / len(read)
            lanes[number, own] = 1
            weight[own] = 1 if norm.weight is None else norm.weight.detach().cpu().double()
            bias[own] = 0 if norm.bias is None else norm.bias.detach().cpu().double()
        state = {"shares": shares, "first": shares[:, :1].clone(), "lanes": lanes}
        for name, tensor in {**state, "weight": weight, "bias": bias}.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        dim = 1 if self.positions else -1
        if not self.root:
            x = x - self._spread(self._mean(x) @ self.get_buffer("first"), x)
        own = x.narrow(dim, x.shape[dim] - self.written, self.written)
        square = self._mean(x * x) @ self.get_buffer("shares")
        if not self.root:
            mean = self._mean(x) @ self.get_buffer("shares")
            square = (square - mean * mean).clamp(min=0)
            own = own - self._spread(mean @ self.get_buffer("lanes"), x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        scale = (square + eps).rsqrt() @ self.get_buffer("lanes")
        normal = (own * self._spread(scale, x)).clamp(-FURTHEST, FURTHEST)
        weight, bias = (self._spread(self.get_buffer(name), x) for name in ("weight", "bias"))
        return normal * weight + bias

    def _mean(self, x: Tensor) -> Tensor:
        """Over the positions, if they are normalised over."""
        return x.flatten(2).mean(2) if self.positions and x.dim() > 2 else x

    def _spread(self, value: Tensor, x: Tensor) -> Tensor:
        """(..., columns), to be met by ``x``."""
        return value.reshape(*value.shape, *[1] * (x.dim() - 2)) if self.positions else value
