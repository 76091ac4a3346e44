"""What a block reads while it is learned: the frozen blocks before it, as one layer each of the trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eideticnet.block import Block
from eideticnet.pages.laying import exact
from eideticnet.pages.passes import Paged, Value
from eideticnet.program import HEAD, INPUT


class Prefix:
    """``blocks``, frozen and closed under what they read, in one page without their heads.

    One page, because a training step is a large batch: what several would save in multiplications they cost
    in copies and in narrow kernels. It is a function of shapes alone, so a job that goes on after an
    interruption reads the same bits.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        page = exact(blocks)
        page = replace(page, slots={**page.slots, HEAD: 0})
        self.paged = Paged(blocks[-1].program, blocks, [page]).eval()
        self.paged.to(blocks[-1].layers.get_buffer(f"{HEAD}.weight"))
        self._gathered = dict[tuple[str, tuple[str, ...]], Tensor | None]()

    def logits(self, block: Block, x: Tensor) -> Tensor:
        """Those (N, C) of a ``block`` on top, for normalised ``x`` (N, ...): what ``together`` gives, up to
        rounding. A value goes after its last reader."""
        values, own = dict[str, Value]({INPUT: x}), {INPUT: x}

        def earlier(owners: tuple[str, ...], name: str) -> list[Tensor]:
            return self._read(values, owners, name)

        for step, over in zip(block.program.steps, block.program.ends, strict=True):
            if step.name != HEAD:
                with torch.no_grad():
                    values[step.name] = self.paged.value(step, values)
            piece = block.compute(step, own, earlier)
            if piece is not None:
                own[step.name] = piece
            for name in over:
                if name != HEAD:
                    values.pop(name, None)
                    own.pop(name, None)
        return own[HEAD]

    def _read(self, values: Mapping[str, Value], owners: tuple[str, ...], name: str) -> list[Tensor]:
        """The columns of ``owners``, in their order: all that there are as they lie, others gathered."""
        value, features = values[name], self.paged.program.features[name]
        if isinstance(value, Tensor) or 0 not in value:
            return []
        if (name, owners) not in self._gathered:
            (page,) = self.paged.pages
            columns = [column for owner in owners for column in page.columns(features, owner)]
            whole = columns == list(range(page.width(features)))
            self._gathered[name, owners] = None if whole else torch.tensor(columns, device=value[0].device)
        gathered = self._gathered[name, owners]
        return [value[0] if gathered is None else value[0].index_select(features.dim, gathered)]
