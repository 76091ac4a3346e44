"""A block: what one owner has, one stock layer for each layer of the trunk, and its head."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from eideticnet.columns import kept_columns
from eideticnet.hashing import tensor_hash
from eideticnet.program import HEAD, INPUT, Program, Step, Widths, ends
from eideticnet.rules import RULES

Pieces = Mapping[str, Tensor]
"""What one owner contributes to each value of the program, by the value's name."""
Earlier = Callable[[tuple[str, ...], str], list[Tensor]]
"""What these owners contribute to a value, by its name, in their order; put side by side or not."""


def earlier_of(pieces: Mapping[str, Pieces]) -> Earlier:
    """It from each owner's pieces."""
    return lambda owners, name: [own[name] for own in map(pieces.__getitem__, owners) if name in own]


class Block(nn.Module):
    """The piece of a network that belongs to one owner.

    It reads the raw input, its own pieces and those of the owners in ``reads``, which were
    there before it; no one in ``reads`` reads it. A frozen block holds no ``Parameter``, only
    buffers that nothing else references, and is always in evaluation mode.
    """

    def __init__(
        self,
        program: Program,
        owner: str,
        reads: tuple[str, ...],
        widths: Mapping[str, Widths],
        layers: Mapping[str, nn.Module] | None = None,
        unread: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """``widths`` gives the neurons of ``owner`` and of everyone in ``reads``; ``layers``,
        by path, are new ones with random weights unless given. ``unread`` names, by the path of a
        layer or of a module that contains it, owners in ``reads`` that are not read there. Who sets
        ``seen`` is shown each own piece, by the value's name."""
        super().__init__()
        self.program = program
        self.owner = owner
        self.reads = reads
        self.unread = {path: tuple(owners) for path, owners in (unread or {}).items()}
        self.widths: dict[str, dict[str, int]] = {o: dict(widths[o]) for o in (*reads, owner)}
        self.fingerprint: dict[str, str] | None = None
        self.seen: Callable[[str, Tensor], None] | None = None
        self.layers = nn.Module()
        for path, layer in (self._fresh_layers() if layers is None else layers).items():
            self.layers.add_module(attribute(path), layer)
            if path in program.layers:
                step = program.layers[path]
                RULES[step.rule].settle(step, layer, program, self.widths[owner])

    def _fresh_layers(self) -> dict[str, nn.Module]:
        """A stock layer for each layer of the trunk in which this block owns something."""
        built = {}
        for path, step in self.program.layers.items():
            wide_in, wide_out = sum(map(sum, self._columns_read(step))), self._columns_written(step)
            layer = RULES[step.rule].build(step, wide_in, wide_out) if wide_out else None
            if layer is not None:
                built[path] = layer
        return built

    def layer(self, path: str) -> nn.Module | None:
        """The block's own stock layer in the place of the trunk's ``path``, if it has one."""
        return self.layers._modules.get(attribute(path))

    @property
    def own(self) -> dict[str, int]:
        """Neurons that this block owns in each group, the head's classes left out."""
        return {g: n for g, n in self.widths[self.owner].items() if g != HEAD}

    @property
    def classes(self) -> int:
        return self.widths[self.owner][HEAD]

    def forward(self, x: Tensor, earlier: Mapping[str, Pieces]) -> Pieces:
        """Own pieces of all values, the logits (N, classes) under ``HEAD``; ``together`` keeps fewer.

        ``x`` (N, ...) is the normalised input, ``earlier`` the pieces of each owner in ``reads``.
        """
        self.stay()
        own, read = {INPUT: x}, earlier_of(earlier)
        for step in self.program.steps:
            value = self.compute(step, own, read)
            if value is not None:
                own[step.name] = value
        return own

    def compute(self, step: Step, own: Pieces, earlier: Earlier) -> Tensor | None:
        """The own piece of what ``step`` gives; None if this block has none. ``own`` holds the own pieces
        that the step reads, ``earlier`` gives those of others."""
        inputs = self.read(step, own, earlier)
        if inputs is None:
            return None
        layer = self.layer(step.layer) if step.layer else None
        value = RULES[step.rule].run(step, layer, inputs, self.training)
        if self.seen is not None:
            self.seen(step.name, value)
        return value

    def read(self, step: Step, own: Pieces, earlier: Earlier) -> list[Tensor] | None:
        """What ``step`` is run on; None if this block has nothing of what it gives."""
        rule = RULES[step.rule]
        if step.layer and self.layer(step.layer) is None:
            return None
        inputs = [self._read(step, name, own, earlier) for name in step.inputs]
        present = [value for value in inputs if value is not None]
        if len(present) < len(inputs) and not (rule.joins_parts and present):
            return None
        if rule.reads_back:
            present += self._pieces(step, step.name, {}, earlier)
        return present

    def _read(self, step: Step, name: str, own: Pieces, earlier: Earlier) -> Tensor | None:
        """The value ``name`` as ``step`` sees it; None if no owner has a part of it."""
        if self.program.features[name].raw or not RULES[step.rule].reads_prefix:
            return own.get(name)
        return next(iter(self._pieces(step, name, own, earlier)), None)

    def _pieces(self, step: Step, name: str, own: Pieces, earlier: Earlier) -> list[Tensor]:
        """The pieces of a value that ``step`` may read, as one tensor; none if there is none."""
        pieces = [*earlier(self.read_in(step), name), *([own[name]] if name in own else [])]
        return pieces if len(pieces) < 2 else [torch.cat(pieces, self.program.features[name].dim)]

    def read_by(self, step: Step) -> tuple[str, ...]:
        """The values of earlier owners that ``step`` reads here."""
        rule = RULES[step.rule]
        if step.layer and self.layer(step.layer) is None:
            return ()
        return (*(step.inputs if rule.reads_prefix else ()), *((step.name,) if rule.reads_back else ()))

    def read_in(self, step: Step) -> tuple[str, ...]:
        """The earlier owners whose neurons the layer of ``step`` reads."""
        path = f"{step.layer}."
        unread = {o for where, owners in self.unread.items() if path.startswith(f"{where}.") for o in owners}
        return tuple(o for o in self.reads if o not in unread)

    def _columns_read(self, step: Step) -> list[tuple[int, int]]:
        """For each input of a layer the earlier owners' columns and the own ones; of what is read back
        there are none of its own."""
        rule, widths = RULES[step.rule], self.widths
        earlier = self.read_in(step) if rule.reads_prefix else ()
        read = [self.program.features[name] for name in step.inputs]
        if not read or read[0].raw:
            columns = [(0, int(step.options["raw_columns"]))]
        else:
            columns = [
                (sum(f.columns(widths[o]) for o in earlier), f.columns(widths[self.owner])) for f in read
            ]
        if rule.reads_back:
            columns.append((sum(step.features.columns(widths[o]) for o in earlier), 0))
        return columns

    def _columns_written(self, step: Step) -> int:
        if step.features.raw:
            return int(step.options["raw_columns"])
        return step.features.columns(self.widths[self.owner])

    def shrink(self, keep: Mapping[str, Tensor]) -> Block:
        """A new, unfrozen block with only the neurons in ``keep``, sorted indices by group."""
        own = {**self.widths[self.owner], **{group: len(kept) for group, kept in keep.items()}}
        layers = {}
        for path, step in self.program.layers.items():
            layer, kept = self.layer(path), self._kept_out(step, keep)
            if layer is not None and len(kept):
                layers[path] = RULES[step.rule].shrink(step, layer, self._kept_in(step, keep), kept)
        widths = {**self.widths, self.owner: own}
        smaller = Block(self.program, self.owner, self.reads, widths, layers, self.unread)
        return smaller.train(self.training)

    def _kept_in(self, step: Step, keep: Mapping[str, Tensor]) -> Tensor:
        """Columns of a layer's inputs that stay: all that are not the own ones, and those by ``keep``.
        Of each input the own columns are the last."""
        read = [self.program.features[name] for name in step.inputs]
        kept, start = list[Tensor](), 0
        for i, (before, mine) in enumerate(self._columns_read(step)):
            own = torch.arange(mine)
            if i < len(read) and not read[i].raw:
                own = kept_columns(read[i], self.widths[self.owner], keep)
            kept += [torch.arange(start, start + before), start + before + own]
            start += before + mine
        return torch.cat(kept)

    def _kept_out(self, step: Step, keep: Mapping[str, Tensor]) -> Tensor:
        if step.features.raw:
            return torch.arange(int(step.options["raw_columns"]))
        return kept_columns(step.features, self.widths[self.owner], keep)

    def adopt(self, trunk: nn.Module) -> None:
        """Take over the weights of ``trunk``, a plain one in normal form, as wide as this block."""
        for _, layer, tensors in self.beside(trunk):
            layer.load_state_dict(tensors)

    def beside(self, trunk: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, Tensor]]]:
        """Path and layer of all but the head, and what ``trunk`` has in the place of the layer's tensors."""
        for path, step in self.program.layers.items():
            layer = self.layer(path)
            if layer is not None and path != HEAD:
                yield path, layer, RULES[step.rule].adopt(step, layer, trunk)

    def freeze(self) -> None:
        """Turn every parameter into a new tensor registered as a buffer, for ever.

        New tensors, because an optimizer or a scheduler that still knows the old ones may step.
        """
        for module in self.modules():
            tensors: Iterable[tuple[str, Tensor | None]]
            tensors = [*module._parameters.items(), *module._buffers.items()]
            for name, tensor in tensors:
                module._parameters.pop(name, None)
                module.register_buffer(name, None if tensor is None else tensor.detach().clone())
        self.fingerprint = self.hashes()
        self.eval()

    @property
    def frozen(self) -> bool:
        return self.fingerprint is not None

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each tensor that the block holds now, by name."""
        return {name: tensor_hash(tensor) for name, tensor in self.layers.state_dict().items()}

    def stay(self) -> None:
        """In evaluation mode, if the block is frozen and a layer of it was put into another mode."""
        if self.frozen and any(layer.training for layer in self.layers.children()):
            self.eval()

    def train(self, mode: bool = True) -> Block:
        """As in ``nn.Module``, except that a frozen block stays in evaluation mode."""
        return super().train(mode and not self.frozen)


def together(blocks: Sequence[Block], x: Tensor, keep: Container[str] = (HEAD,)) -> dict[str, Pieces]:
    """The pieces of the values in ``keep``, by owner, for normalised ``x`` (N, ...).

    ``blocks`` are in the order of learning, with everyone that they read. All take a step of the program
    before anyone takes the next, and a value goes after its last reader: so there are never more of them
    than the plain trunk has.
    """
    for block in blocks:
        block.stay()
    programs = {id(block.program.steps): block.program for block in blocks}
    over = blocks[0].program.ends if len(programs) == 1 else ends(programs.values())
    pieces = {block.owner: {INPUT: x} for block in blocks}
    read = earlier_of(pieces)
    for place, names in enumerate(over):
        for block in blocks:
            if place < len(block.program.steps):
                step = block.program.steps[place]
                value = block.compute(step, pieces[block.owner], read)
                if value is not None:
                    pieces[block.owner][step.name] = value
        for name in names:
            if name not in keep:
                for own in pieces.values():
                    own.pop(name, None)
    return dict(pieces)


def attribute(path: str) -> str:
    """A layer's dotted path as a name that a submodule can have."""
    return path.replace(".", "__")
