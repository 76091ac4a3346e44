"""Barriers: how a value is computed must not depend on who reads it.

The exporter and ONNX Runtime fuse an operation with the one that reads it (a norm or a sum with the
convolution before it) where nothing else does, and fused it rounds otherwise. What several steps of the
trunk read has several readers in every version, unless its owner owns nothing behind one of them: there
a later owner may be the first to read it. So such a value is put behind a maximum with itself, which
changes no bit and which nothing is fused with. So is what a statistic of the features is taken of: with it
a runtime makes a norm of what surrounds it, unless a later owner reads it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from eideticnet.block import Block
from eideticnet.pages.passes import Paged
from eideticnet.program import HEAD, Program, Step

_SAME = {"op": "aten.maximum.default", "args": [{"input": 0}, {"input": 0}], "kwargs": {}}


@contextmanager
def barred(body: nn.Module) -> Iterator[None]:
    """While this lasts, the blocks and pages in ``body`` that need some compute with barriers."""
    blocks = [block for block in body.modules() if isinstance(block, Block) and _needs_some(block)]
    programs = [block.program for block in blocks]
    paged = [module for module in body.modules() if isinstance(module, Paged)]
    try:
        for block in blocks:
            block.program = with_barriers(block.program)
        for pages in paged:
            pages.barriers = _by_page(pages)
        yield
    finally:
        for block, program in zip(blocks, programs, strict=True):
            block.program = program
        for pages in paged:
            pages.barriers = {}


def _needs_some(block: Block) -> bool:
    return 0 in block.own.values() or bool(_for_statistics(block.program))


def _by_page(paged: Paged) -> dict[int, frozenset[str]]:
    """The values that each page needs barriers behind, by what never changes of a page."""
    names = _with_several_readers(paged.program)
    always = bool(_for_statistics(paged.program))
    slots = [[n for group, n in page.whole.items() if group != HEAD] for page in paged.pages]
    return {number: names for number, counts in enumerate(slots) if always or 0 in counts}


def _for_statistics(program: Program) -> set[str]:
    return {name for step in program.steps if step.rule == "statistic" for name in step.inputs}


def _with_several_readers(program: Program) -> frozenset[str]:
    """Values that several steps, or a statistic, read."""
    readers = Counter(name for step in program.steps for name in set(step.inputs))
    several = {step.name for step in program.steps if readers[step.name] > 1 and not step.features.raw}
    features = program.features
    return frozenset(several | {name for name in _for_statistics(program) if not features[name].raw})


def with_barriers(program: Program) -> Program:
    """``program`` with a barrier after each value that several steps, or a statistic, read, under the
    value's own name."""
    names, steps = _with_several_readers(program), list[Step]()
    for step in program.steps:
        steps.append(step)
        if step.name in names:
            steps.append(Step(step.name, "elementwise", (step.name,), step.features, None, _SAME))
    return Program(tuple(steps), program.groups)
