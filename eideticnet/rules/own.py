"""Layers whose weights belong to no neuron: every owner has all of them, for its own piece."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from eideticnet.program import Step
from eideticnet.rules.base import Axis, Rule
from eideticnet.rules.calls import Call, shape_of
from eideticnet.rules.groups import Groups

_KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.PReLU)
}


class OwnRule(Rule, name="own"):
    """A layer along positions (the token mixing of an MLP-Mixer), or one slope for all neurons."""

    def step(self, call: Call, path: str, kind: str, **arguments: Any) -> Step:
        """The call of the layer ``path``, a stock one of this kind with these arguments."""
        options = {"kind": kind, "arguments": arguments, "raw_columns": 1}
        return Step(call.name, "own", call.inputs, call.features, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return _KINDS[step.options["kind"]](**step.options["arguments"])

    def axes_of(self, step: Step, name: str) -> tuple[Axis, ...]:
        return ()


class PReluRule(Rule, name="prelu"):
    """nn.PReLU with a slope for each channel; with one slope, or one for each position, it is everyone's
    own. They start from the mean of the trunk's."""

    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {"weight": ("out",)}

    def trace(self, call: Call, groups: Groups) -> Step:
        weight = call.argument(1)
        path, (slopes,) = call.layer("PReLU", weight=weight), shape_of(weight)
        init = float(call.trunk.get_parameter(f"{path}.weight").detach().mean())
        if slopes == 1 or call.features.raw or call.features.dim != 1 - len(call.shape):
            return OwnRule().step(call, path, "PReLU", num_parameters=slopes, init=init)
        groups.read_alike(path, call.features)
        return Step(call.name, "prelu", call.inputs, call.features, path, {"init": init})

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return nn.PReLU(columns_out, step.options["init"])
