"""What an answer costs: the multiply-adds of its matrix products and convolutions, for one input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.utils.flop_counter import FlopCounterMode

from eideticnet.block import Block, Pieces
from eideticnet.inputs import DTYPES, Inputs
from eideticnet.learned import ROUTER, Learned
from eideticnet.program import HEAD, Program, Widths


@dataclass(frozen=True)
class Arithmetic:
    """Multiply-adds of one answer: those of each of the ``tasks`` with its head, by label, and of the
    ``router``; and those of a ``plain`` network of the trunk with one head for all classes."""

    tasks: Mapping[str, int]
    router: int
    plain: int

    @property
    def total(self) -> int:
        """Of the whole answer."""
        return sum(self.tasks.values()) + self.router

    @property
    def share(self) -> float:
        """Of the whole answer, as a multiple of the plain network's."""
        return self.total / self.plain if self.plain else 0.0

    def __str__(self) -> str:
        return (
            f"{self.total:,} multiply-adds an answer ({self.router:,} of them the router's), "
            f"{self.share:.2f} of a plain network's {self.plain:,}"
        )


class Capacity(dict[str, dict[str, int]]):
    """Whose the neurons of each feature group are, and the ``arithmetic`` of an answer, counted when it
    is asked for."""

    def __init__(self, rows: Mapping[str, dict[str, int]], count: Callable[[], Arithmetic]) -> None:
        super().__init__(rows)
        self._count = count

    @cached_property
    def arithmetic(self) -> Arithmetic:
        return self._count()


@torch.no_grad()
def arithmetic(learned: Learned, program: Program, inputs: Inputs) -> Arithmetic:
    """What an answer of all that is ``learned`` costs beside a plain network of the whole ``program``.

    Counted on shapes alone, whatever the weights are and wherever they lie."""
    with torch.device("meta"):
        x = torch.zeros(1, *inputs.shape, dtype=DTYPES[inputs.dtype])
        earlier, spent = dict[str, Pieces](), dict[str, int]()
        for block in map(learned.block, learned.blocks):
            alike = Block(block.program, block.owner, block.reads, block.widths, unread=block.unread)
            earlier[block.owner], spent[block.owner] = _run(alike, x, earlier)
    classes = sum(len(task.classes) for task in learned.current())
    plain = multiply_adds(program, {**program.groups, HEAD: classes}, inputs)
    names = {task.owner: task.label for task in learned.tasks}
    return Arithmetic({names[o]: n for o, n in spent.items() if o != ROUTER}, spent.get(ROUTER, 0), plain)


@torch.no_grad()
def multiply_adds(program: Program, widths: Widths, inputs: Inputs) -> int:
    """Of one dense network of these widths."""
    with torch.device("meta"):
        x = torch.zeros(1, *inputs.shape, dtype=DTYPES[inputs.dtype])
        return _run(Block(program, "dense", (), {"dense": widths}), x, {})[1]


def _run(block: Block, x: torch.Tensor, earlier: Mapping[str, Pieces]) -> tuple[Pieces, int]:
    """What a block gives, and the multiply-adds that it takes; a flop is a product or a sum."""
    with FlopCounterMode(display=False) as counter:
        pieces = block.eval()(x, earlier)
    return pieces, counter.get_total_flops() // 2
