"""Values that do not come from the input: literals, buffers and bare parameters."""

from __future__ import annotations

import ast

import torch
from torch import Tensor, nn

from eideticnet.program import INPUT, Step
from eideticnet.rules.base import Axis, Rule
from eideticnet.rules.calls import Call, batch_dim, unpacked
from eideticnet.rules.elementwise import overload
from eideticnet.rules.groups import Groups


class ConstantRule(Rule, name="constant"):
    """A tensor of literals; it reads the input only to know the device."""

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        dtype = getattr(torch, step.options["dtype"])
        return torch.tensor(step.options["value"], dtype=dtype, device=inputs[0].device)


class _Divided(Rule):
    """A tensor of which each owner has the columns of its neurons, if it has any."""

    def axes_of(self, step: Step, name: str) -> tuple[Axis, ...]:
        axes: list[Axis] = [None] * len(step.options["shape"])
        if not step.features.raw:
            axes[step.features.dim] = "out"
        return tuple(axes)


class ParameterRule(_Divided, name="parameter"):
    """A bare parameter of the trunk (a position, a class token, a scale): each owner has the
    columns of its neurons, started at random with the mean and the deviation of the trunk's."""

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        shape = list(step.options["shape"])
        if not step.features.raw:
            shape[step.features.dim] = columns_out
        return Bare(shape, step.options["mean"], step.options["std"])

    def adopt(self, step: Step, layer: nn.Module, trunk: nn.Module) -> dict[str, Tensor]:
        assert isinstance(layer, Bare)
        parameter = trunk.get_parameter(str(step.layer)).detach()
        return {"weight": shown(parameter, step.options["shown_by"]).reshape(layer.weight.shape)}

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        assert isinstance(layer, Bare)
        return layer.weight


class LearnedRule(ParameterRule, name="learned"):
    """A parameter that a layer reads, the same for every row (queries that are learned): its columns
    are neurons, as those of an embedding are."""

    makes_neurons = True

    def trace(self, call: Call, groups: Groups) -> Step:
        constant, batch = call.constants[call.node], batch_dim(call.shape)
        written = groups.written(str(constant.parameter), int(call.shape[-1]), -1)
        options = {**constant.as_parameter(), "raw_columns": 0, "batch": batch}
        return Step(call.name, "learned", (INPUT,), written, constant.parameter, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        assert isinstance(layer, Bare)
        rows = inputs[0].shape[0]
        sizes = [rows if d == step.options["batch"] else -1 for d in range(layer.weight.ndim)]
        return layer.weight.expand(sizes)

    def incoming(self, layer: nn.Module) -> Tensor:
        return layer.get_parameter("weight").flatten(0, -2).T


def shown(parameter: Tensor, shown_by: str) -> Tensor:
    """A parameter in the shape in which the trunk uses it, by the operations that show it so."""
    for operation in reversed(shown_by.split(" aten.") if shown_by else []):
        name, _, arguments = operation.removeprefix("aten.").partition("(")
        try:
            parameter = overload(f"aten.{name}")(parameter, *ast.literal_eval(f"({arguments}"))
        except ValueError:  # expanded to the batch, where it keeps its size of one
            continue
    return parameter


class Bare(nn.Module):
    """A parameter as a module, so that a block can hold it among its layers."""

    weight: Tensor

    def __init__(self, shape: list[int], mean: float, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape, mean))
        if std and not self.weight.is_meta:
            nn.init.normal_(self.weight, mean, std)


class BufferRule(_Divided, name="buffer"):
    """A large constant, or one with a value for each neuron (sinusoidal positions): each owner has the
    columns of its neurons, evenly spread over the trunk's, and never trained."""

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        value = unpacked(step.options)
        if not step.features.raw:
            dim = step.features.dim
            chosen = torch.arange(columns_out, device="cpu") * value.shape[dim] // max(columns_out, 1)
            value = value.index_select(dim, chosen)
        return Fixed(value)

    def adopt(self, step: Step, layer: nn.Module, trunk: nn.Module) -> dict[str, Tensor]:
        return dict(layer.state_dict())

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        assert isinstance(layer, Fixed)
        return layer.value


class Fixed(nn.Module):
    """A buffer as a module, so that a block can hold it among its layers."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


class AgainRule(Rule, name="again"):
    """A constant again for each row of the input, one after the other."""

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        x, rows = inputs
        return x.repeat([rows.shape[0] if d == step.options["dim"] else 1 for d in range(x.ndim)])
