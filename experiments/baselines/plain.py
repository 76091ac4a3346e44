"""Plain networks: the trunk with a head, trained as a network's own blocks are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from eideticnet.data.rows import Loader
from eideticnet.inputs import DTYPES, Inputs
from eideticnet.learn.threads import using, worth
from eideticnet.learn.training import LAST_PHASE, Classify, Event, Job, Training, converge
from eideticnet.seeding import seeded


def fit(
    name: str,
    trunk: Callable[[], nn.Module],
    classes: int,
    loader: Loader,
    inputs: Inputs,
    training: Training,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[Event], Any] = lambda event: None,
) -> nn.Module:
    """A new ``trunk()`` with one head of ``classes``, trained on ``loader`` until its training accuracy is
    flat, and again until it settles; it takes normalised inputs. ``name`` and ``seed`` decide its random
    numbers."""
    with seeded(seed, name):
        net = headed(trunk(), classes, inputs).to(device)
    objective = Classify(classes, training.label_smoothing)
    job = Job(
        name, loader, objective, inputs, training, (seed, name), lambda module, x: module(x), report=report
    )
    with using(worth(job, net)):
        converge(job, net, "train", training.patience)
        converge(job, net, LAST_PHASE, training.settle_patience)
    return net.eval()


def headed(trunk: nn.Module, classes: int, inputs: Inputs) -> nn.Sequential:
    """``trunk`` and a new linear layer from its features (N, F) to logits (N, classes)."""
    return nn.Sequential(trunk, nn.Linear(features(trunk, inputs), classes))


@torch.no_grad()
def features(trunk: nn.Module, inputs: Inputs) -> int:
    """The width of what ``trunk`` ends in."""
    return int(trunk.eval()(example(inputs)).shape[1])


def example(inputs: Inputs) -> torch.Tensor:
    """Two normalised inputs (2, *shape), as low as they may be."""
    low, _ = inputs.bounds()
    return inputs.normalise(torch.full((2, *inputs.shape), low).to(DTYPES[inputs.dtype]))
