"""What the routers are compared with: one plain net of the same trunk that sees all classes at once."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.problems import Problem, Split
from eideticnet import batches
from eideticnet.experiments.baselines.plain import fit
from eideticnet.models import mlp
from eideticnet.route.experts import weigh


def train(problem: Problem, seed: int, split: Split) -> tuple[nn.Module, float]:
    """The trunk with one head of ten classes, on all training data, by the same recipe; seconds."""
    start = time.perf_counter()
    loader = batches(split.train.x, split.train.y, problem.batch_size)
    trunk = partial(mlp, problem.pixels, problem.hidden)
    net = fit("plain", trunk, 10, loader, problem.inputs, problem.training, seed)
    return net, time.perf_counter() - start


@torch.no_grad()
def accuracies(
    net: nn.Module, problem: Problem, split: Split, validation: Tensor, test: Tensor
) -> dict[str, float]:
    """Of the plain ``net``, and of its product with the moments' logits (N, 10) on both parts, which
    is weighed on validation data as the routers' is."""
    plain = _logits(net, problem, split)
    first, second = weigh(plain[0], validation, split.validation.y)
    product = [first * a + second * b for a, b in zip(plain, (validation, test), strict=True)]
    return {**_both(plain, split, ""), **_both(product, split, "moments_")}


def _logits(net: nn.Module, problem: Problem, split: Split) -> list[Tensor]:
    return [net(problem.inputs.normalise(part.x)) for part in (split.validation, split.test)]


def _both(logits: list[Tensor], split: Split, prefix: str) -> dict[str, float]:
    parts = {"validation": split.validation, "test": split.test}
    return {
        f"{prefix}{name}": mean_over_classes(found.argmax(1) == part.y, part.y)
        for found, (name, part) in zip(logits, parts.items(), strict=True)
    }


def mean_over_classes(right: Tensor, digit: Tensor) -> float:
    """The mean over the ten classes ``digit`` (N,) of the share that is ``right`` (N,)."""
    return float(torch.stack([right[digit == c].double().mean() for c in digit.unique()]).mean())
