"""A pass by pages: the blocks of neighbouring owners as one layer each, for many small blocks.

A page is the trunk's own program again, as wide as its slots. Its layers hold the weights of all blocks that
lie in it, with zeros where a block does not read and where nobody lies, and read the pages that are its
sources. So there are as many layers as there are pages, however many tasks there are. What can't be one layer
(a norm over the prefix, a recurrence, a head that reads what others don't) runs owner by owner on cut-out
pieces, which are put side by side again.

The numbers are those of the blocks up to rounding. An infinity in one owner's neurons would reach the others
of its page, and those who read it, as 0 * inf.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from eideticnet.block import Block, earlier_of
from eideticnet.pages.fusing import fusable, fused
from eideticnet.pages.norms import read_alike
from eideticnet.pages.places import Places
from eideticnet.program import HEAD, INPUT, Program, Step
from eideticnet.rules import RULES
from eideticnet.slots import Page, page_of

Value = Tensor | Mapping[int | str, Tensor]
"""What is everyone's alike, of the raw input; else the columns of the owners of each page, by its number, or,
by owner, what each made of the raw input with weights of its own."""


class Paged(nn.Module):
    """Normalised inputs (N, *shape) to the logits of ``blocks``, by owner. All have the steps of ``program``,
    but for the head, and lie in ``pages``.

    ``heads``: the logits of each page are those of these owners side by side, as many of each."""

    def __init__(self, program: Program, blocks: Sequence[Block], pages: Sequence[Page]) -> None:
        super().__init__()
        self.program, self.sources = program, [page.sources for page in pages]
        usual = {b.owner: b.classes if b.program.steps[-1] == program.steps[-1] else 0 for b in blocks}
        widths = {b.owner: {**b.own, HEAD: usual[b.owner]} for b in blocks}
        unusual = {b.owner: b.classes - usual[b.owner] for b in blocks}
        self.pages = [
            Places(
                {o: widths[o] for o in page.owners},
                {**page.slots, HEAD: page.slots[HEAD] - sum(unusual[o] for o in page.owners)},
            )
            for page in pages
        ]
        lies = page_of(pages)
        together = [[b for b in blocks if lies[b.owner] == number] for number in range(len(pages))]
        self.unfused = unfused(program, all(read_alike(mine, program) for mine in together if mine))
        self.layers = nn.ModuleDict()
        for step in program.steps:
            for number, page in enumerate(self.pages):
                if step.layer and step.name not in self.unfused and page.width(step.features):
                    read, most = [self.pages[n] for n in self._read_by(step, number)], pages[number].most
                    layer = fused(step, together[number], read, program, most)
                    self.layers[_key(step.layer, number)] = layer
        self.blocks = nn.ModuleDict({b.owner: _only(b, self.unfused, not usual[b.owner]) for b in blocks})
        self.heads = {
            number: {owner: own[HEAD] for owner, own in page.widths.items() if own[HEAD]}
            for number, page in enumerate(self.pages)
        }
        self.barriers = dict[int, frozenset[str]]()
        """Values by page that go through a maximum with themselves, which nothing is fused with."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pages, logits = self.by_page(x)
        return logits | self.apart(pages)

    def apart(self, logits: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Everyone's logits, cut out of those of the pages."""
        parts = [self.pages[n].parts(whole, self.program.features[HEAD]) for n, whole in logits.items()]
        return {owner: piece for part in parts for owner, piece in part.items()}

    def by_page(
        self, x: Tensor, strangers: Iterable[Block] = ()
    ) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
        """The logits of each page, and those of owners whose head reads other values; and of ``strangers``,
        in no page, which have steps of their own and may read those who are."""
        values: dict[str, Value] = {INPUT: x}
        for step in self.program.steps:
            values[step.name] = self.value(step, values)
        others = {o: self._block(o).program.steps[-1] for o in self.blocks if not self._has_head(o)}
        whole = {int(n): of for n, of in values[HEAD].items() if isinstance(n, int)}  # type: ignore[union-attr]
        logits = self._owner_by_owner(others, values)
        for block in strangers:
            read = {name for step in block.program.steps for name in block.read_by(step)}
            pieces = self._pieces(sorted(read & values.keys() - {INPUT}), values)
            logits[block.owner] = block(x, {owner: pieces[owner] for owner in block.reads})[HEAD]
        return whole, logits

    def value(self, step: Step, values: Mapping[str, Value]) -> Value:
        """What ``step`` gives on those of ``values`` that it reads."""
        if step.features.raw and step.name not in self.unfused:
            inputs = [values[name] for name in step.inputs]
            return RULES[step.rule].run(step, None, inputs, False)  # type: ignore[arg-type]
        made = self._joined(step, values) if step.name in self.unfused else self._by_page(step, values)
        if isinstance(made, Tensor) or not self.barriers:
            return made
        barred = {number for number, names in self.barriers.items() if step.name in names}
        return {n: torch.maximum(value, value) if n in barred else value for n, value in made.items()}

    def _read_by(self, step: Step, page: int) -> tuple[int, ...]:
        """The pages that a step of ``page`` reads, the own one last."""
        return (*(self.sources[page] if RULES[step.rule].reads_prefix else ()), page)

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

    def _has_head(self, owner: str) -> bool:
        return any(owner in of for of in self.heads.values())

    def _owner_by_owner(self, steps: Mapping[str, Step], values: Mapping[str, Value]) -> dict[str, Tensor]:
        """The piece that each of these owners has of what its step gives, if it has one."""
        pieces = self._pieces((name for step in steps.values() for name in step.inputs), values)
        made = {}
        for owner, step in steps.items():
            piece = self._block(owner).compute(step, pieces[owner], earlier_of(pieces))
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


def unfused(program: Program, norms: bool = True) -> frozenset[str]:
    """Steps that run owner by owner: what can't be one layer, as ``norms`` over the prefix may be or not, and
    what reads values of the raw input that each owner made with weights of its own."""
    found, own = set[str](), set[str]()
    for step in program.steps:
        one_layer = fusable(step) and (norms or step.rule != "prefix_norm")
        if not one_layer or own.intersection(step.inputs):
            found.add(step.name)
            own |= {step.name} if step.features.raw else set()
    return frozenset(found)


def _only(block: Block, unfused: frozenset[str], head: bool) -> Block:
    """A block with only the layers of the steps that run owner by owner, and maybe its head."""
    steps = [s for s in block.program.steps if s.name in unfused or (s.name == HEAD and head)]
    layers = {s.layer: layer for s in steps if s.layer and (layer := block.layer(s.layer)) is not None}
    return Block(block.program, block.owner, block.reads, block.widths, layers, block.unread).eval()
