"""Features in another order: channels that are shuffled, every second one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eideticnet.columns import chosen
from eideticnet.program import Program, Step, Widths
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call
from eideticnet.rules.groups import Groups
from eideticnet.rules.narrow import NarrowRule


class ChooseRule(Rule, name="choose"):
    """Columns in another order, maybe some of them. Every neuron has its place in the plain trunk, and those
    of an owner keep the order of their places."""

    def of(self, call: Call, groups: Groups, dim: int, columns: Sequence[int]) -> Step:
        """The step for these indices along ``dim`` of the first activation."""
        features, dim = call.features, dim - len(call.input_shape)
        options = {"dim": dim, "columns": list(columns)}
        if features.raw or features.dim != dim:
            return Step(call.name, "choose", call.inputs, features, None, options)
        if list(columns) == list(range(columns[0], columns[0] + len(columns))):
            return NarrowRule().of(call, groups, columns[0], columns[0] + len(columns))
        written, of = groups.chosen(features, columns, call)
        path = f"{call.path}.{call.name}".lstrip(".")
        return Step(call.name, "choose", call.inputs, written, path, {"dim": dim, "of": of})

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return Chosen(step.options["dim"])

    def settle(self, step: Step, layer: nn.Module, program: Program, widths: Widths) -> None:
        assert isinstance(layer, Chosen)
        read = program.features[step.inputs[0]]
        layer.columns = chosen(read, step.features, step.options["of"], widths)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        if layer is None:
            layer = Chosen(step.options["dim"], step.options["columns"])
        return super().run(step, layer, inputs, training)


class Chosen(nn.Module):
    """These columns in this order."""

    def __init__(self, dim: int, columns: Sequence[int] = ()) -> None:
        super().__init__()
        self.dim, self.columns = dim, columns

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(self.dim, torch.tensor(self.columns, device=x.device))
