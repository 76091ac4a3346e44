"""Some of the features, or all in another order: unequal parts, a slice, shuffled channels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from eideticnet.columns import chosen
from eideticnet.program import Features, Program, Step, Widths
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call
from eideticnet.rules.groups import Groups


class NarrowRule(Rule, name="narrow"):
    """Adjacent columns, whose neurons are groups of their own: everyone's first or last columns."""

    def sliced(self, call: Call, groups: Groups) -> Step | None:
        """The step for a slice of the features; None if it leaves some out in between."""
        names = ("start", "end") if "slice" in call.operation else ("start", "length")
        start, second = (call.named[name] for name in names)
        columns = int(call.input_shape[call.features.dim])
        if call.named.get("step", 1) != 1:
            return None
        start = int(start or 0)
        start = max(start + columns, 0) if start < 0 else start
        end = sys.maxsize if second is None else int(second) + (start if names[1] == "length" else 0)
        end = min(end + columns if end < 0 else end, columns)
        return self.of(call, groups, start, end)

    def part(self, call: Call, groups: Groups, name: str, start: int, end: int) -> Step:
        """The step of that name for some columns, among those that run before the call's own."""
        call.extra.append(self.of(replace(call, name=name), groups, start, end))
        return call.extra[-1]

    def of(self, call: Call, groups: Groups, start: int, end: int) -> Step:
        """The step for the columns of the plain trunk from ``start`` to ``end``."""
        columns, source = int(call.input_shape[call.features.dim]), call.inputs[0]
        part = groups.part(call.features, start, end, call)
        if len(part.runs) == len(call.features.runs) * call.features.tile:
            return Step(call.name, "identity", (source,), call.features)
        if start > 0 and end < columns:
            rest = groups.part(call.features, start, columns, call)
            call.extra.append(_step(call, f"{call.name}_rest", source, rest, True))
            source = call.extra[-1].name
        return _step(call, call.name, source, part, end == columns)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return Narrow(step.features.dim, columns_out, step.options["last"])


def _step(call: Call, name: str, source: str, features: Features, last: bool) -> Step:
    return Step(name, "narrow", (source,), features, f"{call.path}.{name}".lstrip("."), {"last": last})


class Narrow(nn.Module):
    """The first or the last few columns."""

    def __init__(self, dim: int, columns: int, last: bool) -> None:
        super().__init__()
        self.dim, self.columns, self.last = dim, columns, last

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(self.dim, x.shape[self.dim] - self.columns if self.last else 0, self.columns)


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
