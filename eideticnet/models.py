"""Ready trunks: plain modules that end in features (N, F). They know nothing of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eideticnet.errors import UnsupportedError


def mlp(
    inputs: int, hidden: Sequence[int] = (256, 256), *, dropout: float = 0.0, batch_norm: bool = False
) -> nn.Sequential:
    """Flatten, then Linear, BatchNorm1d (if asked), ReLU and Dropout (if any) for each width."""
    _check("mlp", inputs=inputs, hidden=hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in zip((inputs, *hidden[:-1]), hidden, strict=True):
        layers.append(nn.Linear(before, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def convnet(
    channels: int = 3, widths: Sequence[int] = (64, 64, 128, 128), *, pool_every: int = 2
) -> nn.Sequential:
    """3x3 convolutions with BatchNorm2d and ReLU, a 2x2 max pool after each ``pool_every`` of them,
    and a mean over positions: images (N, channels, H, W) to (N, widths[-1])."""
    _check("convnet", channels=channels, widths=widths, pool_every=pool_every)
    layers: list[nn.Module] = []
    for i, (before, width) in enumerate(zip((channels, *widths[:-1]), widths, strict=True), 1):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        if i % pool_every == 0 and i < len(widths):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _check(trunk: str, **sizes: Any) -> None:
    """``UnsupportedError`` unless all of ``sizes`` are whole numbers from 1, or lists of them."""
    for name, given in sizes.items():
        for size in given if isinstance(given, Sequence) or getattr(given, "shape", None) else [given]:
            if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
                what = f"{size!r} among {name}" if size is not given else f"{name} = {size!r}"
                raise UnsupportedError(f"the trunk {trunk} has {what}; give a whole number from 1")


class _Residual(nn.Module):
    """``relu(branch(x) + skip(x))``; the skip is a projection where shapes differ, else the identity."""

    def __init__(self, before: int, after: int, stride: int, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.skip = branch, nn.Sequential()
        if stride > 1 or before != after:
            self.skip = nn.Sequential(*_conv(before, after, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.skip(x))


def _conv(before: int, after: int, size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, but for its stride, and a norm."""
    conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
    return [conv, nn.BatchNorm2d(after)]


def _basic(before: int, width: int, stride: int) -> _Residual:
    branch = [*_conv(before, width, 3, stride), nn.ReLU(), *_conv(width, width, 3)]
    return _Residual(before, width, stride, nn.Sequential(*branch))


def _bottleneck(before: int, width: int, stride: int) -> _Residual:
    branch = [*_conv(before, width, 1), nn.ReLU(), *_conv(width, width, 3, stride)]
    branch += [nn.ReLU(), *_conv(width, 4 * width, 1)]
    return _Residual(before, 4 * width, stride, nn.Sequential(*branch))


def _resnet(
    make: Callable[[int, int, int], _Residual],
    expansion: int,
    depths: Sequence[int],
    channels: int,
    width: int,
    low_resolution: bool,
) -> nn.Sequential:
    _check("resnet", channels=channels, width=width)
    stem = [*_conv(channels, width, 7, 2), nn.ReLU()]
    if low_resolution:
        stem[0] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    else:
        stem.append(nn.MaxPool2d(3, 2, 1))
    blocks, before = list[nn.Module](), width
    for stage, depth in enumerate(depths):
        inner = width * 2**stage
        for i in range(depth):
            blocks.append(make(before, inner, 2 if stage and not i else 1))
            before = inner * expansion
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet18(channels: int = 3, *, width: int = 64, low_resolution: bool = False) -> nn.Sequential:
    """ResNet-18 (He et al. 2016): images (N, channels, H, W) to (N, 8 * width). ``low_resolution``
    has a 3x3 stem without stride or pool, for images of 32x32 or so."""
    return _resnet(_basic, 1, (2, 2, 2, 2), channels, width, low_resolution)


def resnet50(channels: int = 3, *, width: int = 64, low_resolution: bool = False) -> nn.Sequential:
    """ResNet-50 with bottleneck blocks: images (N, channels, H, W) to (N, 32 * width)."""
    return _resnet(_bottleneck, 4, (3, 4, 6, 3), channels, width, low_resolution)


class LstmClassifier(nn.Module):
    """An embedding and an LSTM: token ids (N, S), 0 being padding, to its outputs' mean over time
    (N, hidden), or twice that if the LSTM runs both ways."""

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 128,
        hidden: int = 128,
        layers: int = 1,
        both_ways: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check("lstm", vocabulary=vocabulary, width=width, hidden=hidden, layers=layers)
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        p = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=both_ways, dropout=p)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.embedding(x))[0].mean(1)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """ViT-Ti (Dosovitskiy et al. 2021; Touvron et al. 2021), pre-norm: square images to (N, width)."""

    def __init__(
        self,
        image: int = 32,
        patch: int = 4,
        channels: int = 3,
        *,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check("vit_tiny", image=image, patch=patch, channels=channels, width=width, depth=depth, heads=heads)
        if width % heads or image < patch:
            raise UnsupportedError(
                f"the trunk vit_tiny has width = {width}, heads = {heads}, image = {image}, patch = {patch}; "
                "give a width that the heads divide, and no patch larger than the image"
            )
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.encoder(x)[:, 0]  # type: ignore[no-any-return]


lstm, vit_tiny = LstmClassifier, VisionTransformer
