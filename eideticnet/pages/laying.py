"""Laying: which page a new owner joins, and how many slots a page is opened with.

By shapes, a plan and committed constants alone, once for each task, in the order of learning. A page that
is open keeps its slots and its sources, so what is laid is stored and never derived again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from eideticnet.arithmetic import multiply_adds
from eideticnet.block import Block
from eideticnet.bounds import bounded_free_slots, bounds_of
from eideticnet.inputs import Inputs
from eideticnet.learned import Learned
from eideticnet.pages.norms import read_alike
from eideticnet.pages.passes import unfused
from eideticnet.program import HEAD, Program, Widths
from eideticnet.slots import Page, page_of

PLANNED = 10
"""Tasks for which pages are laid, unless the network says how many are planned."""
OPERATION = 20_000
"""One more operation takes as long as this number of multiply-adds: ``make bench-scale``."""
MULTIPLE = 16
"""Slots of a page that several owners share, a multiple of this number: what a runtime's kernels are fast
with. A group has at least as many: there is no fast convolution for fewer."""


def laid(learned: Learned, program: Program, inputs: Inputs, planned: int | None) -> tuple[Page, ...]:
    """Pages in which every task lies: those that ``learned`` has, and what newer tasks need.

    Nobody joins a page, and none is opened for others to join, unless all numbers are sure to be finite. Nor
    does one that reads only some of the earlier tasks open a page with norms for others: who is to come would
    have to read it."""
    pages, blocks = list(learned.pages), [learned.block(task.owner) for task in learned.tasks]
    if all(block.owner in page_of(pages) for block in blocks):
        return tuple(pages)
    norms = any(step.rule == "prefix_norm" for step in program.steps)
    together = not unfused(program) and bounded_free_slots(program, inputs)
    finite = bounds_of(blocks, inputs).keys() if together else ()
    for block in blocks:
        lies = page_of(pages)
        if block.owner in lies:
            continue
        sources = {lies[owner] for owner in block.reads}
        if block.owner in finite and pages and sources <= {*pages[-1].sources, len(pages) - 1}:
            beside = [*map(learned.block, pages[-1].owners), block]
            if pages[-1].has_room(*map(_own, beside)) and read_alike(beside, program):
                pages[-1] = pages[-1].with_owner(block.owner)
                continue
        page = exact([block], sorted(sources))
        if block.owner in finite and (set(block.reads) == set(lies) or not norms):
            there = [_own(learned.block(owner)) for owner in lies]
            page = _opened(page, there, max(planned or PLANNED, len(blocks)), program, inputs)
        pages.append(page)
    return tuple(pages)


def exact(blocks: Sequence[Block], sources: Iterable[int] = ()) -> Page:
    """A page of just these owners."""
    groups = dict.fromkeys(group for block in blocks for group in _own(block))
    slots = {group: sum(_own(block).get(group, 0) for block in blocks) for group in groups}
    return Page(slots, tuple(sources), tuple(block.owner for block in blocks), len(blocks))


def _own(block: Block) -> Widths:
    return block.widths[block.owner]


def _opened(page: Page, there: Sequence[Widths], count: int, program: Program, inputs: Inputs) -> Page:
    """``page``, of one owner, with slots for others, if ``count`` tasks are to come in all, of which those
    before it are ``there``. The rest are taken to be as wide as these are in the mean, or share what is free.

    N tasks in P pages take a N + c N^2 (P + 1) / 2P multiply-adds, and P times as many operations as there
    are layers: a for what a task reads of the raw input, c for what one reads of another.
    """
    own, known = page.slots, len(there) + 1
    free = {g: n - sum(widths[g] for widths in there) for g, n in program.groups.items()}
    usual = {g: -(-(n + sum(widths[g] for widths in there)) // known) for g, n in own.items()}
    usual |= {g: max(1, min(usual[g], n // max(1, count - known + 1))) for g, n in free.items()}
    one, all_of_them = (
        multiply_adds(program, {g: n * k for g, n in usual.items()}, inputs) for k in (1, count)
    )
    read = max(0, all_of_them - count * one) * count / max(1, count - 1)
    pages = min(count, max(1, round(math.sqrt(read / (2 * OPERATION * len(program.layers))))))
    each = min(count, max(-(-count // pages), -(-MULTIPLE // min(usual[g] for g in free))))
    if each == 1:
        return page
    wanted = {g: -(-n * each // MULTIPLE) * MULTIPLE for g, n in usual.items()}
    wanted[HEAD] = usual[HEAD] * each
    slots = {g: max(own[g], min(n, free.get(g, n))) for g, n in wanted.items()}
    return Page(slots, page.sources, page.owners, 2 * each)
