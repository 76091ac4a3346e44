"""How good a network is on held-out data: per task, as means of per-class accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eideticnet.data.rows import Loader
from eideticnet.errors import DataError
from eideticnet.network import EideticNetwork
from eideticnet.route.calibration import expected_calibration_error


@dataclass(frozen=True)
class TaskReport:
    """``oracle``: the task is given. ``routed``: the network finds task and class. ``found``: it
    finds the task. Each is the mean over the task's classes of the share that is right."""

    oracle: float
    routed: float
    found: float


def evaluate(net: EideticNetwork, loaders: Mapping[str, Loader]) -> dict[str, TaskReport]:
    """A report for each task in ``loaders``, which hold raw (x, y) with y from 0 to C - 1; a class
    without a row counts for nothing."""
    found = answers(net, loaders)
    return {name: TaskReport(*mean_over_classes(right, y).tolist()) for name, (right, y) in found.items()}


@torch.no_grad()
def answers(net: EideticNetwork, loaders: Mapping[str, Loader]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each task in ``loaders`` which answers are right (N, 3), in the order of ``TaskReport``, and the
    labels (N,)."""
    net.eval()
    found, data = {}, net.rows(loaders)
    for index, task in enumerate(net.tasks):
        if task.name in data:
            rights = [_right(net, index, x, y) for x, y in data[task.name].batches(task.name)]
            right, y = (torch.cat(column) for column in zip(*rights, strict=True))
            found[task.name] = right, y
    return found


def mean_over_classes(right: Tensor, y: Tensor) -> Tensor:
    """The share of ``right`` (N, ...) in each class that ``y`` (N,) holds, as a mean over those (...)."""
    return torch.stack([right[y == c].double().mean(0) for c in y.unique()]).mean(0)


@torch.no_grad()
def calibration_error(net: EideticNetwork, loaders: Mapping[str, Loader]) -> float:
    """Expected calibration error of ``task_probs`` over all of ``loaders``: by how much the
    probability of the task chosen differs from how often it is the right one."""
    net.eval()
    confidence, right = [], []
    data = net.rows(loaders)
    if not data:
        raise DataError("calibration_error: give the loader of a task at least")
    for index, task in enumerate(net.tasks):
        for x, _ in data[task.name].batches(task.name) if task.name in data else ():
            probs = net(x.to(net.device)).task_probs.cpu()
            confidence.append(probs.amax(1))
            right.append(probs.argmax(1) == index)
    return expected_calibration_error(torch.cat(confidence), torch.cat(right))


def _right(net: EideticNetwork, task: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which of a batch's answers are right (N, 3), in the order of ``TaskReport``."""
    x, y = x.to(net.device), y.to(net.device)
    out = net(x)
    found = out.task == task
    oracle = net.task_logits(x, net.tasks[task].name).argmax(1) == y
    return torch.stack([oracle, found & (out.label == y), found], 1), y
