"""Recurrent layers: an owner's hidden units also see what earlier owners' units were one step ago."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eideticnet.program import Step
from eideticnet.rules.base import Axis, Rule
from eideticnet.rules.calls import Call
from eideticnet.rules.groups import Groups

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}
"""How many rows of weights each hidden unit has, by the kernel's name."""


class Recurrent(nn.Module):
    """torch's recurrent kernel with its weights as ordinary parameters; batch first, one layer.

    nn.LSTM keeps a second list of its weights, which freezing would have to keep in step.
    """

    def __init__(self, kind: str, inputs: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.kind, self.inputs, self.hidden, self.bias = kind, inputs, hidden, bias
        rows = GATES[kind] * hidden
        shapes: dict[str, tuple[int, ...]] = {"weight_ih_l0": (rows, inputs), "weight_hh_l0": (rows, hidden)}
        if bias:
            shapes |= dict.fromkeys(("bias_ih_l0", "bias_hh_l0"), (rows,))
        self.names = list(shapes)
        self.weight_ih_l0: Tensor
        self.weight_hh_l0: Tensor
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            nn.init.uniform_(getattr(self, name), -(hidden**-0.5), hidden**-0.5)  # as nn.LSTM does

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (N, S, hidden) of ``x`` (N, S, inputs), starting from zeros."""
        # not every CPU has the kernels in half precision, and shapes alone (meta) have no autocast
        if torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(self.weight_ih_l0.dtype))
        zeros = torch.zeros(1, x.shape[0], self.hidden, dtype=x.dtype, device=x.device)
        state = (zeros, zeros) if self.kind == "lstm" else zeros
        weights = [getattr(self, name) for name in self.names]
        run = getattr(torch, self.kind)
        out: Tensor = run(x, state, weights, len(weights) > 2, 1, 0.0, False, False, True)[0]
        return out


class RecurrentRule(Rule, name="recurrent"):
    """One layer and direction of nn.RNN, nn.LSTM or nn.GRU over (N, S, features).

    A block is a recurrent layer whose input is the prefix and the earlier owners' hidden states of
    the step before. For RNN and LSTM that is a masked dense layer; in a GRU the reset gate covers
    the own hidden state alone.
    """

    reads_prefix = True
    reads_back = True
    makes_neurons = True
    axes: ClassVar[dict[str, tuple[Axis, ...]]] = {
        "weight_ih_l0": ("gates", "in"),
        "weight_hh_l0": ("gates", "out"),
        "bias_ih_l0": ("gates",),
        "bias_hh_l0": ("gates",),
    }

    def trace(self, call: Call, groups: Groups) -> Step:
        layer = call.trunk.get_submodule(call.path)
        if not isinstance(layer, Recurrent):
            raise call.refuse("is a recurrent layer with a forward of its own", "nn.LSTM itself")
        path = call.path
        if call.index != 0:
            raise call.refuse("hands on its inner states", "its output, or the final hidden state h[i]")
        if not call.features.raw and call.features.dim != -1:
            raise call.refuse("runs along the feature dimension")
        groups.read_alike(path, call.features)
        written = groups.written(path, layer.hidden, -1)
        options = {"kind": layer.kind, "bias": layer.bias, "raw_columns": layer.inputs}
        return Step(call.name, "recurrent", call.inputs, written, path, options)

    def build(self, step: Step, columns_in: int, columns_out: int) -> nn.Module | None:
        return Recurrent(step.options["kind"], columns_in, columns_out, step.options["bias"])

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        assert layer is not None
        x, *earlier = inputs
        if earlier:
            x = torch.cat([x, F.pad(earlier[0], (0, 0, 1, 0))[:, :-1]], -1)
        return layer(x)  # type: ignore[no-any-return]

    def _columns_out(self, layer: nn.Module, name: str) -> int:
        assert isinstance(layer, Recurrent)
        return layer.hidden

    def incoming(self, layer: nn.Module) -> Tensor:
        assert isinstance(layer, Recurrent)
        weights = torch.cat([layer.weight_ih_l0, layer.weight_hh_l0], 1)
        return weights.reshape(GATES[layer.kind], layer.hidden, -1).transpose(0, 1).flatten(1)
