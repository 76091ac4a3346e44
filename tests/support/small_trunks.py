"""Plain trunks as a user would write them, with their widths as arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 6


class Mlp(nn.Module):
    """Modules only: Linear, BatchNorm1d, ReLU, Dropout."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((FEATURES, *widths[:-1]), widths, strict=True):
            layers += [
                nn.Linear(before, width),
                nn.BatchNorm1d(width),
                nn.ReLU(inplace=True),
                nn.Dropout(0.1),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Functional(nn.Module):
    """Functions instead of modules, a view, no biases, a mix of activations."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = zip((FEATURES, *widths[:-1]), widths, strict=True)
        self.linears = nn.ModuleList([nn.Linear(a, b, bias=i > 0) for i, (a, b) in enumerate(pairs)])

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.shape[0], -1)
        for i, linear in enumerate(self.linears):
            x = linear(x)
            x = F.gelu(x, approximate="tanh") if i % 2 else F.dropout(F.silu(x), 0.1, self.training)
        return x


class Tokens(nn.Module):
    """Whole numbers from 0 to 9 (N, S), through a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(10, 6), nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.table(x).mean(1)).relu()


class Residual(nn.Module):
    """A stem and residual blocks: the summed values are one group of neurons."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, widths[0])
        self.norm = nn.BatchNorm1d(widths[0], affine=False)
        self.inner = nn.ModuleList([nn.Linear(widths[0], w) for w in widths[1:]])
        self.outer = nn.ModuleList([nn.Linear(w, widths[0]) for w in widths[1:]])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            y = outer(torch.relu(inner(x)))
            y += x
            x = y
        return x


class Normalised(nn.Module):
    """A BatchNorm on the raw input, which every block has for itself, and a layer used twice."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.first = nn.Linear(FEATURES, widths[0])
        self.again = nn.Linear(widths[0], widths[0])
        self.last = nn.Linear(widths[0], widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(self.norm(x)))
        x = torch.relu(self.again(torch.relu(self.again(x))))
        return torch.relu(self.last(x))


class Net(nn.Module):
    """A trunk of layers and parameters by name, and a function over it and its input."""

    def __init__(self, function: Callable[[Net, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def lin(a: int = 6, b: int = 6) -> nn.Linear:
    return nn.Linear(a, b)


def flat() -> Tensor:
    return torch.randn(3, 6)


def sequences() -> Tensor:
    return torch.randn(3, 5, 6)


def images() -> Tensor:
    return torch.randn(3, 2, 4, 4)


TRUNKS: list[Callable[[Sequence[int]], nn.Module]] = [Mlp, Functional, Residual, Normalised]
