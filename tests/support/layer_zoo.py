"""Plain trunks of every kind of layer, as users write them, with a width each and their inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolutions(nn.Module):
    """Stride, padding, dilation, batch norm, pools, flattening with positions."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, w, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(w)
        self.b = nn.Conv2d(w, w + 2, 3, padding="same", dilation=2)
        self.c, self.drop = nn.Conv2d(w + 2, w, 2, padding=(1, 0)), nn.Dropout2d(0.1)
        self.fc = nn.Linear(w * 4, w)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.na(self.a(x)), inplace=True)
        x = F.max_pool2d(self.b(x), 2)
        x = self.drop(F.avg_pool2d(self.c(x).tanh(), 1))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1)).sigmoid()


class Conv1dNet(nn.Module):
    """One-dimensional convolutions and pools."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv1d(3, w, 3, padding=1), nn.BatchNorm1d(w), nn.Conv1d(w, w, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.silu(self.n(self.a(x))), 2)
        return self.b(x).mean(-1)


class ResidualBlocks(nn.Module):
    """A projection skip, an identity skip with pre-activation norm, a convolution on the skip."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, w, 3, padding=1)
        self.a1, self.n1, self.a2 = (
            nn.Conv2d(w, w + 3, 3, 2, 1),
            nn.BatchNorm2d(w + 3),
            nn.Conv2d(w + 3, w + 2, 3, 1, 1),
        )
        self.project, self.np = nn.Conv2d(w, w + 2, 1, 2), nn.BatchNorm2d(w + 2)
        self.pre, self.b1 = nn.BatchNorm2d(w + 2), nn.Conv2d(w + 2, w + 2, 3, padding=1)
        self.skip, self.c1 = nn.Conv2d(w + 2, w + 2, 1), nn.Conv2d(w + 2, w + 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.a2(F.relu(self.n1(self.a1(x)))) + self.np(self.project(x)))
        x = x + self.b1(F.relu(self.pre(x)))
        x = self.skip(x) + F.hardswish(self.c1(x))
        return x.mean((2, 3))


class Dense(nn.Module):
    """DenseNet: every layer reads the concatenation of all before it."""

    def __init__(self, w: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, w, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(w * (i + 1)) for i in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(w * (i + 1), w, 3, padding=1) for i in range(3)])
        self.fc = nn.Linear(4 * w, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Separable(nn.Module):
    """MobileNet: inverted residuals, depthwise convolutions, squeeze-and-excite, a multiplier."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, w, 3, 2, 1), nn.Conv2d(w, 2 * w, 1)
        self.deep, self.norm = nn.Conv2d(2 * w, 2 * w, 3, padding=1, groups=2 * w), nn.BatchNorm2d(2 * w)
        self.squeeze, self.excite = nn.Conv2d(2 * w, 5, 1), nn.Conv2d(5, 2 * w, 1)
        self.project = nn.Conv2d(2 * w, w, 1)
        self.multiply = nn.Conv2d(w, 2 * w, 3, groups=w)
        self.s2, self.e2 = nn.Linear(2 * w, 4), nn.Linear(4, 2 * w)
        self.last = nn.Linear(2 * w, w)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        y = F.relu6(self.norm(self.deep(F.relu6(self.expand(x)))))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = F.relu(x + self.project(y))
        x = self.multiply(x)
        gate = F.hardsigmoid(self.e2(F.relu(self.s2(x.mean((2, 3))))))
        x = x * gate[:, :, None, None]
        return self.last(x.amax((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions and group norms: a group of channels is one neuron."""

    def __init__(self, w: int = 12) -> None:
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(3, w, 3, padding=1), nn.GroupNorm(w // 2, w)
        self.mix, self.grouped = nn.Conv2d(w, w, 1), nn.Conv2d(w, 2 * w, 3, groups=w // 3)
        self.n1 = nn.GroupNorm(w // 2, 2 * w)
        self.one, self.instance = nn.GroupNorm(1, 2 * w), nn.InstanceNorm2d(2 * w, affine=True)
        self.fc = nn.Linear(2 * w, w)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n0(self.stem(x)))
        x = F.gelu(self.n1(self.grouped(self.mix(x))))
        x = self.instance(self.one(x))
        return self.fc(x.amax((2, 3)))


class LayerNorms(nn.Module):
    """A mixer: layer norms, linear layers along the last dimension, permutes, a learned scale."""

    def __init__(self, w: int = 10) -> None:
        super().__init__()
        self.raw, self.stem = nn.LayerNorm(5), nn.Linear(5, w)
        self.n1, self.up, self.down = nn.LayerNorm(w), nn.Linear(w, 2 * w), nn.Linear(2 * w, w)
        self.scale, self.n2 = nn.Parameter(torch.full((w,), 0.5)), nn.LayerNorm(w, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.raw(x))
        x = x + self.scale * self.down(F.gelu(self.up(self.n1(x))))
        x = self.n2(x).permute(0, 2, 1)
        return x.flatten(1)


class Recurrent(nn.Module):
    """An embedding and a recurrent layer; its output at the end or its final states."""

    def __init__(self, kind: type[nn.RNNBase], w: int = 8, **options: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, w, padding_idx=0)
        self.rnn, self.pair = kind(w, w + 1, **options), kind is nn.LSTM  # type: ignore[arg-type]
        self.fc = nn.Linear((w + 1) * (2 if self.rnn.bidirectional else 1), w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x if self.rnn.batch_first else x.transpose(0, 1)
        out, state = self.rnn(x)
        h = state[0] if self.pair else state
        out = out.mean(1 if self.rnn.batch_first else 0)
        return self.fc(out) if self.rnn.bidirectional else torch.relu(self.fc(h[-1])) * self.fc(out)


class Transformer(nn.Module):
    """Patches, a class token, positions, torch's own encoder layers."""

    def __init__(self, w: int = 12, heads: int = 3, norm_first: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, w, 4, 4)
        self.token, self.position = (
            nn.Parameter(torch.zeros(1, 1, w)),
            nn.Parameter(0.1 * torch.randn(1, 5, w)),
        )
        layer = nn.TransformerEncoderLayer(
            w, heads, 2 * w, 0.1, "gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(w), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.encoder(x)[:, 0]


class HandAttention(nn.Module):
    """Attention by hand: fused queries, keys and values, matmul and softmax; positions embedded."""

    def __init__(self, w: int = 12, heads: int = 3, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.embed, self.where = nn.Embedding(11, w), nn.Embedding(7, w)
        self.qkv, self.out = nn.Linear(w, 3 * w), nn.Linear(w, w)

    def forward(self, x: Tensor) -> Tensor:
        n, s = x.shape
        x = self.embed(x) + self.where(torch.arange(s, device=x.device))
        if self.fused:
            q, k, v = self.qkv(x).reshape(n, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (p.view(n, s, self.heads, -1).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, s, -1))
        return x.mean(1)


class GatedUnits(nn.Module):
    """Two halves of one layer, one of which gates the other."""

    def __init__(self, w: int = 10) -> None:
        super().__init__()
        self.both, self.last = nn.Linear(6, 2 * w), nn.Linear(w, w)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, -1)
        return self.last(value * torch.sigmoid(gate))


def images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 8, 8)


def series(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 8)


def tokens(rows: int = 4) -> Tensor:
    return torch.randint(0, 11, (rows, 7))


def sequences(rows: int = 4) -> Tensor:
    return torch.randn(rows, 6, 5)


def flat(rows: int = 4) -> Tensor:
    return torch.randn(rows, 6)


def rnn(kind: type[nn.RNNBase], **options: object) -> Callable[[], nn.Module]:
    return lambda: Recurrent(kind, **options)


REPEATED = {
    "residual",
    "dense",
    "lstm two layers both ways",
    "gru both ways",
    "transformer post-norm",
    "chunked attention",
}
"""Kinds whose layers all occur in another one too."""

ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "convolutions": (Convolutions, images),
    "conv1d": (Conv1dNet, series),
    "residual": (ResidualBlocks, images),
    "dense": (Dense, images),
    "separable": (Separable, images),
    "grouped": (Grouped, images),
    "layer norms": (LayerNorms, sequences),
    "rnn": (rnn(nn.RNN, batch_first=True), tokens),
    "lstm": (rnn(nn.LSTM, batch_first=True), tokens),
    "lstm two layers both ways": (rnn(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.1), tokens),
    "gru": (rnn(nn.GRU, batch_first=True, num_layers=2), tokens),
    "gru both ways": (rnn(nn.GRU, batch_first=True, bidirectional=True, bias=False), tokens),
    "transformer": (Transformer, images),
    "transformer post-norm": (lambda: Transformer(norm_first=False), images),
    "fused attention": (HandAttention, tokens),
    "chunked attention": (lambda: HandAttention(fused=False), tokens),
    "gated": (GatedUnits, flat),
}
