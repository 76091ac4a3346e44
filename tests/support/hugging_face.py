"""Trunks that nobody here wrote: Hugging Face's models from small configurations, random weights.

Their library is imported where one is made, since that takes seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pooled(nn.Module):
    """Any of them as a trunk: pixels in, pooled features (N, F) out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).pooler_output.flatten(1)


class FirstToken(Pooled):
    """The class token of a transformer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).last_hidden_state[:, 0]


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 24],
        depths=[1, 2],
        layer_type="bottleneck",
        downsample_in_first_stage=True,
    )
    return Pooled(ResNetModel(config))


def mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    return Pooled(MobileNetV2Model(MobileNetV2Config(image_size=32, depth_multiplier=0.25, min_depth=4)))


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
    )
    return FirstToken(ViTModel(config, add_pooling_layer=False))


def swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2], num_heads=[2], window_size=4)
    return Pooled(SwinModel(config))


def pixels(rows: int, size: int = 32) -> Tensor:
    return torch.randn(rows, 3, size, size)


FOREIGN = {"resnet": (resnet, 32), "mobilenet": (mobilenet, 32), "vit": (vit, 16), "swin": (swin, 16)}
