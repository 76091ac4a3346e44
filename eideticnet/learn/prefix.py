"""What a block reads while it is learned: the frozen blocks before it, in a few pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eideticnet.block import Block, together
from eideticnet.bounds import bounds_of
from eideticnet.inputs import Inputs
from eideticnet.pages.laying import exact
from eideticnet.pages.passes import Paged, Value
from eideticnet.program import HEAD, INPUT
from eideticnet.rules import RULES

PAGES = 2
"""Two halves save a quarter of the products that one page would take; more of them cost as much in copies and
narrow kernels as they save (ratios of ``make bench-scale``: MLPs of 5 to 100 tasks, ResNet-18 of 5 to 30)."""


def logits_on(earlier: Sequence[Block], block: Block, inputs: Inputs) -> Callable[[Block, Tensor], Tensor]:
    """How ``block``, and what it shrinks to, answers on top of ``earlier``, closed under what they read.

    More of them than pages run in pages, where no infinity, by 0 * inf, can reach a layer that does not read
    it: there is none, or the block reads everyone everywhere. Others run block after block.
    """
    several = len(earlier) > PAGES
    if several and (_reads_everyone(block, earlier) or len(bounds_of(earlier, inputs)) == len(earlier)):
        return Prefix(earlier).logits
    return lambda block, x: together([*earlier, block], x)[block.owner][HEAD]


def _reads_everyone(block: Block, earlier: Sequence[Block]) -> bool:
    steps = [step for step in block.program.steps if RULES[step.rule].reads_prefix]
    return all(block.read_in(step) == tuple(other.owner for other in earlier) for step in steps)


class Prefix:
    """``blocks``, frozen and closed under what they read, in a few pages without their heads.

    The pages are a function of shapes alone, so a job that goes on after an interruption reads the same bits.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        each = -(-len(blocks) // PAGES)
        parts = [blocks[start : start + each] for start in range(0, len(blocks), each)]
        pages = [exact(part, range(number)) for number, part in enumerate(parts)]
        pages = [replace(page, slots={**page.slots, HEAD: 0}) for page in pages]
        self.paged = Paged(blocks[-1].program, blocks, pages).eval()
        self.paged.to(blocks[-1].layers.get_buffer(f"{HEAD}.weight"))
        self._gathered = dict[tuple[str, int, tuple[str, ...]], Tensor | None]()

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
        """The columns of ``owners``, in their order: those of a page as they lie, or gathered from it."""
        value, dim = values[name], self.paged.program.features[name].dim
        if isinstance(value, Tensor):
            return []
        pieces = []
        for number, whole in value.items():
            key = name, int(number), owners
            if key not in self._gathered:
                self._gathered[key] = self._columns(*key, whole.device)
            gathered = self._gathered[key]
            if gathered is None:
                pieces.append(whole)
            elif len(gathered):
                pieces.append(whole.index_select(dim, gathered))
        return pieces

    def _columns(
        self, name: str, number: int, owners: tuple[str, ...], device: torch.device
    ) -> Tensor | None:
        """Where the columns of ``owners`` lie in a page's value; None if they are all of it, in order."""
        page, features = self.paged.pages[number], self.paged.program.features[name]
        there = (page.columns(features, owner) for owner in owners if owner in page.widths)
        columns = [column for lie in there for column in lie]
        if columns == list(range(page.width(features))):
            return None
        return torch.tensor(columns, dtype=torch.int64, device=device)
