"""torch's recurrent kernels as a layer whose weights are ordinary parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih_l0": (rows, inputs),
            "weight_hh_l0": (rows, hidden),
        }
        if bias:
            shapes |= {"bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
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
