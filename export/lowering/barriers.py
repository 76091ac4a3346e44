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
from eideticnet.program import Program, Step

_SAME = {"op": "aten.maximum.default", "args": [{"input": 0}, {"input": 0}], "kwargs": {}}


@contextmanager
def barred(body: nn.Module) -> Iterator[None]:
    """While this lasts, the blocks in ``body`` that need some compute with barriers."""
    blocks = [block for block in body.modules() if isinstance(block, Block) and _needs_some(block)]
    programs = [block.program for block in blocks]
    try:
        for block in blocks:
            block.program = with_barriers(block.program)
        yield
    finally:
        for block, program in zip(blocks, programs, strict=True):
            block.program = program


def _needs_some(block: Block) -> bool:
    return 0 in block.own.values() or bool(_for_statistics(block.program))


def _for_statistics(program: Program) -> set[str]:
    return {name for step in program.steps if step.rule == "statistic" for name in step.inputs}


def with_barriers(program: Program) -> Program:
    """``program`` with a barrier after each value that several steps, or a statistic, read, under the
    value's own name."""
    statistics = _for_statistics(program)
    readers = Counter(name for step in program.steps for name in set(step.inputs))
    steps = list[Step]()
    for step in program.steps:
        steps.append(step)
        if (readers[step.name] > 1 or step.name in statistics) and not step.features.raw:
            steps.append(Step(step.name, "elementwise", (step.name,), step.features, None, _SAME))
    return Program(tuple(steps), program.groups)
