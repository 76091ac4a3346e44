"""Pages: the blocks of neighbouring owners as one layer each, for many small blocks.

A page is the trunk's own program again, as wide as its owners together. Its layers hold the weights of all
their blocks, with zeros where a block does not read, and read the pages before it. So a graph has as many
layers as there are pages, however many tasks there are. The **dense** layout is one page of everyone. What
can't be one layer (a norm over the prefix, a recurrence, a head that reads what others don't) runs owner by
owner on cut-out pieces, which are put side by side again.

The numbers are the nested ones up to rounding, not to the bit, and an infinity in one owner's neurons reaches
the others of its page as 0 * inf: that is what the layout costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from eideticnet import EideticNetwork
from eideticnet.arithmetic import multiply_adds
from eideticnet.block import Block
from eideticnet.export.errors import ExportError
from eideticnet.export.lowering.body import owners
from eideticnet.export.lowering.fusing import fusable, fused
from eideticnet.export.lowering.places import Places
from eideticnet.learned import ROUTER
from eideticnet.program import HEAD, INPUT, Program, Step, Widths
from eideticnet.rules import RULES

Value = Tensor | Mapping[int | str, Tensor]
"""What is everyone's alike, of the raw input; else the columns of the owners of each page, by its number, or,
by owner, what each made of the raw input with weights of its own."""

OPERATION = 15_000
"""One more operation takes as long as this number of multiply-adds: ``make bench-scale``."""
NARROWEST = 16
"""Neurons of a group, at least, in a page: a runtime has no fast convolution for fewer."""


def pages(net: EideticNetwork) -> int:
    """How many pages make an answer cheap, by shapes alone.

    If ``read`` are the multiply-adds by which one page of everyone reads neurons, P pages take
    (P + 1) / 2P of them, and P times as many operations as there are layers.
    """
    tasks = [task.owner for task in net.learned.tasks]
    own = [net.learned.block(owner).widths[owner] for owner in tasks]
    whole = {group: sum(widths[group] for widths in own) for group in (*net.program.groups, HEAD)}
    dense = multiply_adds(net.program, whole, net.inputs)
    nested = sum(net.capacity().arithmetic.tasks.values())
    read = 2 * max(0, dense - nested) * len(tasks) / max(1, len(tasks) - 1)
    best = round(math.sqrt(read / (2 * OPERATION * len(net.program.layers))))
    narrowest = min(count for group, count in whole.items() if group != HEAD) // NARROWEST
    return max(1, min(best, narrowest, len(tasks)))


def in_pages(widths: Mapping[str, Widths], count: int) -> list[list[str]]:
    """The owners of ``widths`` in ``count`` pages of about as many neurons each, neighbours together. Among
    several pages the router has one of its own."""
    if count == 1:
        return [list(widths)]
    tasks = {owner: sum(own.values()) for owner, own in widths.items() if owner != ROUTER}
    laid: list[list[str]] = [[] for _ in range(count)]
    before, total = 0, max(1, sum(tasks.values()))
    for owner, neurons in tasks.items():
        laid[min(count - 1, count * before // total)].append(owner)
        before += neurons
    return [page for page in (*laid, [owner for owner in widths if owner == ROUTER]) if page]


class Paged(nn.Module):
    """Raw inputs ``x`` (N, *shape) to the logits that ``Body`` (``body.py``) gives, in its order."""

    def __init__(self, net: EideticNetwork, count: int | None = None) -> None:
        """``count``: how many pages, as many as are best unless given; 1 is the dense layout."""
        super().__init__()
        self.inputs, self.program, self.owners = net.inputs, net.program, owners(net)
        blocks = [net.learned.block(owner) for owner in net.learned.blocks]
        alike = [b for b in blocks if b.program.steps[:-1] == self.program.steps[:-1]]
        head = self.program.steps[-1]
        usual = {b.owner: b.classes if b.program.steps[-1] == head else 0 for b in alike}
        widths = {b.owner: {**b.own, HEAD: usual[b.owner]} for b in alike}
        self.pages = [Places({o: widths[o] for o in page}) for page in in_pages(widths, count or pages(net))]
        self.page_of = {owner: n for n, page in enumerate(self.pages) for owner in page.widths}
        self.unfused = _unfused(self.program)
        self.layers = nn.ModuleDict()
        for step in self.program.steps:
            for number, page in enumerate(self.pages):
                if step.layer and step.name not in self.unfused and page.width(step.features):
                    mine = [block for block in alike if self.page_of[block.owner] == number]
                    read = [self.pages[n] for n in self._read_by(step, number)]
                    self.layers[_key(step.layer, number)] = fused(step, mine, read, self.program)
        self.blocks = nn.ModuleDict({b.owner: _only(b, self.unfused, not usual[b.owner]) for b in alike})
        self.strangers = nn.ModuleDict({b.owner: b for b in blocks if b not in alike})
        if any(b.reads for b in blocks if b not in alike):
            raise ExportError("a block of another program reads the others; only the nested layout has that")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.logits(self.inputs.normalise(x))

    def logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """The same for normalised ``x``."""
        values: dict[str, Value] = {INPUT: x}
        for step in self.program.steps:
            if step.name in self.unfused:
                values[step.name] = self._joined(step, values)
            elif step.features.raw:
                inputs = [values[name] for name in step.inputs]
                values[step.name] = RULES[step.rule].run(step, None, inputs, False)  # type: ignore[arg-type]
            else:
                values[step.name] = self._by_page(step, values)
        logits = self._heads(values)
        for owner, block in self.strangers.items():  # a router with a program of its own reads no other
            logits[owner] = block(x, {})[HEAD]
        return tuple(logits[owner] for owner in self.owners)

    def _read_by(self, step: Step, page: int) -> range:
        """The pages that a step of ``page`` reads, the own one last."""
        return range(0 if RULES[step.rule].reads_prefix else page, page + 1)

    def _by_page(self, step: Step, values: Mapping[str, Value]) -> dict[int | str, Tensor]:
        """What a step gives on the columns of each page that has some."""
        made = dict[int | str, Tensor]()
        for number, page in enumerate(self.pages):
            if page.width(step.features):
                layer = self.layers[_key(step.layer, number)] if step.layer else None
                inputs = [self._seen(step, name, number, values[name]) for name in step.inputs]
                present = [value for value in inputs if value is not None]
                if len(present) == len(inputs) or (RULES[step.rule].joins_parts and present):
                    made[number] = RULES[step.rule].run(step, layer, present, False)
        return made

    def _seen(self, step: Step, name: str, page: int, value: Value) -> Tensor | None:
        """A value as a step of ``page`` sees it; None where no owner has a part of it."""
        if isinstance(value, Tensor):
            return value
        pieces = [value[n] for n in self._read_by(step, page) if n in value]
        if len(pieces) > 1:
            return torch.cat(pieces, self.program.features[name].dim)
        return pieces[0] if pieces else None

    def _joined(self, step: Step, values: Mapping[str, Value]) -> Value:
        """What a step gives that runs owner by owner."""
        pieces = self._owner_by_owner(dict.fromkeys(self.blocks, step), values)
        if step.features.raw:
            return dict[int | str, Tensor](pieces.items())
        joined = dict[int | str, Tensor]()
        for number, page in enumerate(self.pages):
            mine = {owner: piece for owner, piece in pieces.items() if owner in page.widths}
            if mine:
                joined[number] = page.join(mine, step.features)
        return joined

    def _heads(self, values: Mapping[str, Value]) -> dict[str, Tensor]:
        """Everyone's logits: cut out of those of a page, or given by a head that reads other values."""
        pieces = self._pieces([HEAD], values)
        others = {o: self._block(o).program.steps[-1] for o, piece in pieces.items() if not piece}
        return {o: p[HEAD] for o, p in pieces.items() if p} | self._owner_by_owner(others, values)

    def _owner_by_owner(self, steps: Mapping[str, Step], values: Mapping[str, Value]) -> dict[str, Tensor]:
        """The piece that each of these owners has of what its step gives, if it has one."""
        pieces = self._pieces((name for step in steps.values() for name in step.inputs), values)
        made = {}
        for owner, step in steps.items():
            piece = self._block(owner).compute(step, pieces[owner], pieces)
            if piece is not None:
                made[owner] = pieces[owner][step.name] = piece
        return made

    def _pieces(self, names: Iterable[str], values: Mapping[str, Value]) -> dict[str, dict[str, Tensor]]:
        """What each owner has of these values."""
        pieces: dict[str, dict[str, Tensor]] = {owner: {} for owner in self.blocks}
        for name in dict.fromkeys(names):
            value, features = values[name], self.program.features[name]
            if isinstance(value, Tensor):
                parts = [dict.fromkeys(self.blocks, value)]
            elif features.raw:
                parts = [{str(owner): piece for owner, piece in value.items()}]
            else:
                parts = [self.pages[int(n)].parts(whole, features) for n, whole in value.items()]
            for owner, piece in (item for part in parts for item in part.items()):
                pieces[owner][name] = piece
        return pieces

    def _block(self, owner: str) -> Block:
        block = self.blocks[owner]
        assert isinstance(block, Block)
        return block


def _key(path: str, page: int) -> str:
    """A page's layer in the place of the trunk's ``path``, as a name that a submodule can have."""
    return f"page{page}__{path.replace('.', '__')}"


def _unfused(program: Program) -> frozenset[str]:
    """Steps that run owner by owner: what can't be one layer, and what reads values of the raw input
    that each owner made with weights of its own."""
    found, own = set[str](), set[str]()
    for step in program.steps:
        if not fusable(step) or own.intersection(step.inputs):
            found.add(step.name)
            own |= {step.name} if step.features.raw else set()
    return frozenset(found)


def _only(block: Block, unfused: frozenset[str], head: bool) -> Block:
    """A block with only the layers of the steps that run owner by owner, and maybe its head."""
    steps = [s for s in block.program.steps if s.name in unfused or (s.name == HEAD and head)]
    layers = {s.layer: layer for s in steps if s.layer and (layer := block.layer(s.layer)) is not None}
    return Block(block.program, block.owner, block.reads, block.widths, layers, block.unread).eval()
