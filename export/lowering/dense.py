"""The dense layout: the blocks of all owners as one layer each, for many small blocks on a GPU.

It is the trunk's own program again, as wide as all owners together: layers hold the weights of every
block, and the rest runs once on the columns of all. What can't be one layer (a norm over the
prefix, a recurrence, a head that reads what others don't) runs owner by owner on cut-out pieces, which are
put side by side again.

The numbers are the nested ones up to rounding, not to the bit, and an infinity in a later task's neurons
reaches earlier ones as 0 * inf: that is what the layout costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from eideticnet import EideticNetwork
from eideticnet.block import Block
from eideticnet.export.errors import ExportError
from eideticnet.export.lowering.body import owners
from eideticnet.export.lowering.fusing import fusable, fused
from eideticnet.export.lowering.places import Places
from eideticnet.program import HEAD, INPUT, Program, Step
from eideticnet.rules import RULES

Value = Tensor | dict[str, Tensor]
"""The columns of all owners; or, by owner, what each made of the raw input with weights of its own."""


class Dense(nn.Module):
    """Raw inputs ``x`` (N, *shape) to the logits that ``Body`` (``body.py``) gives, in its order."""

    def __init__(self, net: EideticNetwork) -> None:
        super().__init__()
        self.inputs, self.program, self.owners = net.inputs, net.program, owners(net)
        blocks = [net.learned.block(owner) for owner in net.learned.blocks]
        alike = [b for b in blocks if b.program.steps[:-1] == self.program.steps[:-1]]
        head = self.program.steps[-1]
        usual = {b.owner: b.classes if b.program.steps[-1] == head else 0 for b in alike}
        self.places = Places({b.owner: {**b.own, HEAD: usual[b.owner]} for b in alike})
        self.apart = _apart(self.program)
        self.layers = nn.ModuleDict()
        for step in self.program.steps:
            if step.layer and step.name not in self.apart and self.places.width(step.features):
                self.layers[_key(step.layer)] = fused(step, alike, self.places, self.program)
        self.blocks = nn.ModuleDict({b.owner: _only(b, self.apart, not usual[b.owner]) for b in alike})
        self.strangers = nn.ModuleDict({b.owner: b for b in blocks if b not in alike})
        if any(b.reads for b in blocks if b not in alike):
            raise ExportError("a block of another program reads the others; only the nested layout has that")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.logits(self.inputs.normalise(x))

    def logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """The same for normalised ``x``."""
        values: dict[str, Value] = {INPUT: x}
        for step in self.program.steps:
            if step.name in self.apart:
                values[step.name] = self._apart(step, values)
            elif step.features.raw or self.places.width(step.features):
                values[step.name] = self._together(step, values)
        logits = self._heads(values)
        for owner, block in self.strangers.items():  # a router with a program of its own reads no other
            logits[owner] = block(x, {})[HEAD]
        return tuple(logits[owner] for owner in self.owners)

    def _together(self, step: Step, values: Mapping[str, Value]) -> Tensor:
        """What a step gives on the columns of all owners at once."""
        layer = self.layers[_key(step.layer)] if step.layer else None
        inputs = [v for name in step.inputs if isinstance(v := values.get(name), Tensor)]
        return RULES[step.rule].run(step, layer, inputs, False)

    def _apart(self, step: Step, values: Mapping[str, Value]) -> Value:
        """What a step gives owner by owner."""
        pieces = self._owner_by_owner(dict.fromkeys(self.blocks, step), values)
        return pieces if step.features.raw else self.places.join(pieces, step.features)

    def _heads(self, values: Mapping[str, Value]) -> dict[str, Tensor]:
        """Everyone's logits: cut out of those of all, or given by a head that reads other values."""
        pieces = {owner: self._pieces(owner, [HEAD], values) for owner in self.blocks}
        others = {o: self._block(o).program.steps[-1] for o, piece in pieces.items() if not piece}
        return {o: p[HEAD] for o, p in pieces.items() if p} | self._owner_by_owner(others, values)

    def _owner_by_owner(self, steps: Mapping[str, Step], values: Mapping[str, Value]) -> dict[str, Tensor]:
        """The piece that each of these owners has of what its step gives, if it has one."""
        names = dict.fromkeys(name for step in steps.values() for name in step.inputs)
        pieces = {owner: self._pieces(owner, names, values) for owner in self.blocks}
        made = {}
        for owner, step in steps.items():
            piece = self._block(owner).compute(step, pieces[owner], pieces)
            if piece is not None:
                made[owner] = pieces[owner][step.name] = piece
        return made

    def _pieces(self, owner: str, names: Iterable[str], values: Mapping[str, Value]) -> dict[str, Tensor]:
        """What an owner has of these values."""
        pieces = {}
        for name in names:
            value, features = values.get(name), self.program.features[name]
            if isinstance(value, dict):
                pieces[name] = value[owner]
            elif value is not None and self.places.has(features, owner):
                pieces[name] = value if features.raw else self.places.cut(value, features, owner)
        return pieces

    def _block(self, owner: str) -> Block:
        block = self.blocks[owner]
        assert isinstance(block, Block)
        return block


def _key(path: str) -> str:
    """A layer's dotted path as a name that a submodule can have."""
    return path.replace(".", "__")


def _apart(program: Program) -> frozenset[str]:
    """Steps that run owner by owner: what can't be one layer, and what reads values of the raw input
    that each owner made with weights of its own."""
    apart, own = set[str](), set[str]()
    for step in program.steps:
        if not fusable(step) or own.intersection(step.inputs):
            apart.add(step.name)
            own |= {step.name} if step.features.raw else set()
    return frozenset(apart)


def _only(block: Block, apart: frozenset[str], head: bool) -> Block:
    """A block with only the layers of the steps that run owner by owner, and maybe its head."""
    steps = [s for s in block.program.steps if s.name in apart or (s.name == HEAD and head)]
    layers = {s.layer: layer for s in steps if s.layer and (layer := block.layer(s.layer)) is not None}
    return Block(block.program, block.owner, block.reads, block.widths, layers, block.unread).eval()
