"""What one row of the table says about an operation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from eideticnet.program import Program, Step, Widths
from eideticnet.rules.calls import Call
from eideticnet.rules.groups import Groups

Axis = Literal["in", "out", "gates"] | None
RULES: dict[str, Rule] = {}
"""The table, by the names that steps have for its rows."""


class Rule:
    """One row of the table.

    A rule that ``reads_prefix`` sees what earlier owners own beside the block's own piece; all
    others see the own piece alone. One that ``reads_back`` also reads what earlier owners have of
    its own output. ``makes_neurons``: its weights are what a new group of neurons consists of.
    ``joins_parts``: it runs on whichever of its inputs the owner has. ``axes`` names, for each
    tensor of the layer, the axes that follow the columns read ("in") or written ("out", or four
    or so times over, "gates"); ``floor`` is the fewest neurons that the rule makes sense with.
    """

    reads_prefix: ClassVar[bool] = False
    reads_back: ClassVar[bool] = False
    makes_neurons: ClassVar[bool] = False
    joins_parts: ClassVar[bool] = False
    floor: ClassVar[int] = 1
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {}

    def __init_subclass__(cls, name: str = "") -> None:
        if name:
            RULES[name] = cls()

    def trace(self, call: Call, groups: Groups) -> Step:
        raise NotImplementedError

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        """A block's layer with these numbers of columns read and written; None if it has none."""
        return None

    def settle(self, step: Step, layer: nn.Module, program: Program, widths: Widths) -> None:
        """Tell ``layer`` what it has to know beside the number of its columns; ``widths`` are its owner's."""

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        assert layer is not None
        return layer(*inputs)  # type: ignore[no-any-return]

    def shrink(self, step: Step, layer: nn.Module, keep_in: Tensor, keep_out: Tensor) -> nn.Module:
        """A new layer with only the kept columns; ``keep_*`` are sorted index vectors."""
        with torch.device("meta"):  # no memory, and no random numbers drawn for weights to replace
            smaller = self.build(step, len(keep_in), len(keep_out))
        assert smaller is not None
        state = {}
        for name, tensor in layer.state_dict().items():
            tensor = tensor.clone()
            for dim, axis in enumerate(self.axes_of(step, name)):
                if axis is not None:
                    kept = _kept(axis, keep_in, keep_out, tensor.shape[dim], self._columns_out(layer, name))
                    tensor = tensor.index_select(dim, kept.to(tensor.device))
            state[name] = tensor
        smaller.load_state_dict(state, assign=True)
        for name, weight in layer.named_parameters():
            smaller.get_parameter(name).requires_grad_(weight.requires_grad)
        return smaller.train(layer.training)

    def axes_of(self, step: Step, name: str) -> tuple[Axis, ...]:
        return self.axes[name]

    def _columns_out(self, layer: nn.Module, name: str) -> int:
        """Columns that the layer writes, where an axis holds them several times."""
        return 1

    def adopt(self, step: Step, layer: nn.Module, trunk: nn.Module) -> dict[str, Tensor]:
        """The tensors of ``layer`` as the trunk in normal form has them; its own where a layer keeps
        count of something that the trunk's does not."""
        own = layer.state_dict()
        theirs = trunk.get_submodule(str(step.layer)).state_dict() if own else {}
        return {name: theirs.get(name, tensor) for name, tensor in own.items()}

    def incoming(self, layer: nn.Module) -> Tensor:
        """The weights that make each neuron, one row (columns written, ...)."""
        return layer.get_parameter("weight").flatten(1)


def _kept(axis: Axis, keep_in: Tensor, keep_out: Tensor, size: int, columns: int) -> Tensor:
    if axis == "in":
        return keep_in
    if axis == "out":
        return keep_out
    return (torch.arange(size // columns)[:, None] * columns + keep_out).flatten()
