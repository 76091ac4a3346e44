"""Some of the features: a split into unequal parts, a slice of the channels."""

from __future__ import annotations

import sys
from dataclasses import replace

from torch import Tensor, nn

from eideticnet.program import Features, Step
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
