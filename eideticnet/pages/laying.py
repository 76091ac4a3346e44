"""Laying: which page a new owner joins, and how many slots a page is opened with.

By shapes, a plan and committed constants alone, once for each task, in the order of learning. A page that
is open keeps its slots and its sources, so what is laid is stored and never derived again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from eideticnet.arithmetic import multiply_adds
from eideticnet.block import Block
from eideticnet.inputs import Inputs
from eideticnet.learned import Learned
from eideticnet.pages.passes import unfused
from eideticnet.program import HEAD, Program, Widths
from eideticnet.slots import Page, page_of

PLANNED = 10
"""Tasks for which pages are laid, unless the network says how many are planned."""
OPERATION = 15_000
"""One more operation takes as long as this number of multiply-adds: ``make bench-scale``."""
MULTIPLE = 16
"""Slots of a page that several owners share, a multiple of this number: what a runtime's kernels are fast
with. A group has at least as many: there is no fast convolution for fewer."""


def laid(learned: Learned, program: Program, inputs: Inputs, planned: int | None) -> tuple[Page, ...]:
    """Pages in which every task lies: those that ``learned`` has, and what newer tasks need."""
    pages, lies = list(learned.pages), page_of(learned.pages)
    new = [learned.block(task.owner) for task in learned.tasks if task.owner not in lies]
    for block in new:
        there = {o: learned.block(o).widths[o] for page in pages for o in page.owners}
        lies = page_of(pages)
        read = {lies[owner] for owner in block.reads}
        own, may_share = block.widths[block.owner], not unfused(program)
        last = pages[-1] if pages and may_share and read <= {*pages[-1].sources, len(pages) - 1} else None
        if last is not None and last.has_room(own, there):
            pages[-1] = last.with_owner(block.owner)
            continue
        slots: Widths = own
        if may_share:
            count = max(planned or PLANNED, len(there) + 1)
            free = {g: n - sum(w[g] for w in there.values()) for g, n in program.groups.items()}
            slots = _slots(own, free, count, program, inputs)
        pages.append(Page(slots, tuple(sorted(read)), (block.owner,)))
    return tuple(pages)


def exact(blocks: Iterable[Block], sources: Sequence[int] = ()) -> Page:
    """A page of just these owners."""
    widths = {block.owner: block.widths[block.owner] for block in blocks}
    groups = dict.fromkeys(group for own in widths.values() for group in own)
    slots = {group: sum(own.get(group, 0) for own in widths.values()) for group in groups}
    return Page(slots, tuple(sources), tuple(widths))


def _slots(own: Widths, free: Widths, count: int, program: Program, inputs: Inputs) -> Widths:
    """The slots of a page that is opened by an owner of these ``own`` neurons, if ``count`` tasks like it
    are to come, and ``free`` neurons were left for it and for them.

    N tasks in P pages take a N + c N^2 (P + 1) / 2P multiply-adds, and P times as many operations as there
    are layers: a for what a task reads of the raw input, c for what one reads of another.
    """
    one, all_of_them = (
        multiply_adds(program, {g: n * k for g, n in own.items()}, inputs) for k in (1, count)
    )
    read = max(0, all_of_them - count * one) * count / max(1, count - 1)
    pages = min(count, max(1, round(math.sqrt(read / (2 * OPERATION * len(program.layers))))))
    least = min((n for g, n in own.items() if g != HEAD and n), default=MULTIPLE)
    each = min(count, max(-(-count // pages), -(-MULTIPLE // least)))
    if each == 1:
        return own
    wanted = {g: -(-max(n, 1) * each // MULTIPLE) * MULTIPLE for g, n in own.items()}
    return {g: min(n, max(own[g], free.get(g, n))) for g, n in wanted.items()}
