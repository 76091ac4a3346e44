"""A block: what one owner has, one stock layer for each layer of the trunk, and its head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from eideticnet.hashing import tensor_hash
from eideticnet.program import HEAD, INPUT, Features, Program, Step
from eideticnet.rules import RULES

Pieces = dict[str, Tensor]
"""What one owner contributes to each value of the program, by the value's name."""

Widths = Mapping[str, int]
"""Neurons owned in each feature group, and under ``HEAD`` the number of classes."""


def columns(features: Features, widths: Widths) -> int:
    """How many columns an owner with these widths has in a value."""
    return sum(widths[run.group] * run.repeat for run in features.runs)


class Block(nn.Module):
    """The piece of a network that belongs to one owner.

    It reads the raw input, its own pieces and those of the owners in ``reads``, which were
    there before it; nobody in ``reads`` reads it. A frozen block holds no ``Parameter``, only
    buffers that nothing else references, and is always in evaluation mode.
    """

    def __init__(
        self,
        program: Program,
        owner: str,
        reads: tuple[str, ...],
        widths: Mapping[str, Widths],
        layers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """``widths`` gives the neurons of ``owner`` and of everyone in ``reads``; ``layers``,
        by path, are new ones with random weights unless given."""
        super().__init__()
        self.program = program
        self.owner = owner
        self.reads = reads
        self.widths: dict[str, dict[str, int]] = {o: dict(widths[o]) for o in (*reads, owner)}
        self.fingerprint: dict[str, str] | None = None
        self.layers = nn.Module()
        for path, layer in (self._fresh_layers() if layers is None else layers).items():
            self.layers.add_module(_attribute(path), layer)

    def _fresh_layers(self) -> dict[str, nn.Module]:
        """A stock layer for each layer of the trunk in which this block owns something."""
        built = {}
        for path, step in self.program.layers.items():
            wide_in, wide_out = self._columns_read(step), self._columns_written(step)
            layer = RULES[step.rule].build(step, wide_in, wide_out) if wide_out else None
            if layer is not None:
                built[path] = layer
        return built

    def layer(self, path: str) -> nn.Module | None:
        """The block's own stock layer in the place of the trunk's ``path``, if it has one."""
        return self.layers._modules.get(_attribute(path))

    @property
    def own(self) -> dict[str, int]:
        """Neurons that this block owns in each group, the head's classes left out."""
        return {g: n for g, n in self.widths[self.owner].items() if g != HEAD}

    @property
    def classes(self) -> int:
        return self.widths[self.owner][HEAD]

    def forward(self, x: Tensor, earlier: Mapping[str, Pieces]) -> Pieces:
        """Own pieces of all values, the logits (N, classes) under ``HEAD``.

        ``x`` (N, ...) is the normalised input, ``earlier`` the pieces of each owner in ``reads``.
        """
        if self.frozen and any(layer.training for layer in self.layers.children()):
            self.eval()
        own: Pieces = {INPUT: x}
        for step in self.program.steps:
            inputs = [self._read(step, name, own, earlier) for name in step.inputs]
            layer = self.layer(step.layer) if step.layer else None
            present = [value for value in inputs if value is not None]
            if len(present) == len(inputs) and (layer is not None or not step.layer):
                own[step.name] = RULES[step.rule].run(step, layer, present, self.training)
        return own

    def _read(self, step: Step, name: str, own: Pieces, earlier: Mapping[str, Pieces]) -> Tensor | None:
        """The value ``name`` as ``step`` sees it; None where nobody owns a part of it."""
        features = self.program.features[name]
        if features.raw or not RULES[step.rule].reads_prefix:
            return own.get(name)
        pieces = [p[name] for p in (*(earlier[o] for o in self.reads), own) if name in p]
        if len(pieces) < 2:
            return pieces[0] if pieces else None
        return torch.cat(pieces, features.dim)

    def _columns_read(self, step: Step) -> int:
        read = [self.program.features[name] for name in step.inputs]
        if read[0].raw:
            return int(step.options["raw_columns"])
        owners = (*self.reads, self.owner) if RULES[step.rule].reads_prefix else (self.owner,)
        return sum(columns(features, self.widths[o]) for features in read for o in owners)

    def _columns_written(self, step: Step) -> int:
        if step.features.raw:
            return int(step.options["raw_columns"])
        return columns(step.features, self.widths[self.owner])

    def shrink(self, keep: Mapping[str, Tensor]) -> Block:
        """A new, unfrozen block with only the neurons in ``keep``, sorted indices by group."""
        own = {**self.widths[self.owner], **{group: len(kept) for group, kept in keep.items()}}
        layers = {}
        for path, step in self.program.layers.items():
            layer, kept = self.layer(path), self._kept_out(step, keep)
            if layer is not None and len(kept):
                layers[path] = RULES[step.rule].shrink(step, layer, self._kept_in(step, keep), kept)
        widths = {**self.widths, self.owner: own}
        return Block(self.program, self.owner, self.reads, widths, layers).train(self.training)

    def _kept_in(self, step: Step, keep: Mapping[str, Tensor]) -> Tensor:
        """Columns of ``step``'s inputs that stay: all of the earlier owners', own ones by ``keep``.
        Of each input the own columns are the last, after those of ``reads``."""
        read = [self.program.features[name] for name in step.inputs]
        if read[0].raw:
            return torch.arange(self._columns_read(step))
        earlier = self.reads if RULES[step.rule].reads_prefix else ()
        kept, start = [], 0
        for features in read:
            own = start + sum(columns(features, self.widths[o]) for o in earlier)
            kept += [torch.arange(start, own), own + self._kept_columns(features, keep)]
            start = own + columns(features, self.widths[self.owner])
        return torch.cat(kept)

    def _kept_out(self, step: Step, keep: Mapping[str, Tensor]) -> Tensor:
        if step.features.raw:
            return torch.arange(int(step.options["raw_columns"]))
        return self._kept_columns(step.features, keep)

    def _kept_columns(self, features: Features, keep: Mapping[str, Tensor]) -> Tensor:
        """The columns that the kept neurons fill in this block's piece of a value."""
        kept, start = [], 0
        for run in features.runs:
            width = self.widths[self.owner][run.group]
            neurons = keep.get(run.group, torch.arange(width)).cpu()
            kept.append((start + neurons[:, None] * run.repeat + torch.arange(run.repeat)).flatten())
            start += width * run.repeat
        return torch.cat(kept)

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

    def train(self, mode: bool = True) -> Block:
        """As in ``nn.Module``, except that a frozen block stays in evaluation mode."""
        return super().train(mode and not self.frozen)


def _attribute(path: str) -> str:
    """A layer's dotted path as a name that a submodule can have."""
    return path.replace(".", "__")
