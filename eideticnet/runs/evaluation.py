"""How good a network is on held-out data: per task, as means of per-class accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eideticnet.data.rows import Loader
from eideticnet.decision import Output
from eideticnet.errors import DataError
from eideticnet.network import EideticNetwork
from eideticnet.route.calibration import expected_calibration_error


@dataclass(frozen=True)
class TaskReport:
    """``oracle``: the task is given. ``routed``: the network finds task and class; in a shared label space
    the class, whichever task says it. ``found``: it finds the task. Each is the mean over the task's
    classes of the share that is right."""

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
    """Expected calibration error over all of ``loaders``: by how much the probability of the task chosen, in
    a shared label space of the class, differs from how often it is the right one."""
    net.eval()
    confidence, right = [], []
    data = net.rows(loaders)
    if not data:
        raise DataError("calibration_error: give the loader of a task at least")
    for index, task in enumerate(net.tasks):
        for x, y in data[task.name].batches(task.name) if task.name in data else ():
            sure, is_right = judged(net, net(x.to(net.device)), index, y)
            confidence.append(sure)
            right.append(is_right)
    return expected_calibration_error(torch.cat(confidence), torch.cat(right))


def judged(net: EideticNetwork, out: Output, task: int, y: Tensor) -> tuple[Tensor, Tensor]:
    """How sure the network is of a task, in a shared label space of a class, and whether it is the right one,
    (N,) each; ``y`` (N,) are the labels of the inputs, all of one ``task``."""
    labels, routing = net.learned.labels, net.learned.routing
    if labels is None or routing is None:
        probs = out.task_probs.cpu()
        return probs.amax(1), probs.argmax(1) == task
    truth = labels.numbered(torch.full_like(y.cpu(), task), y.cpu())
    return labels.sure(out, routing.decision).cpu(), out.label_probs.argmax(1).cpu() == truth


def _right(net: EideticNetwork, task: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which of a batch's answers are right (N, 3), in the order of ``TaskReport``."""
    x, y = x.to(net.device), y.to(net.device)
    out = net(x)
    found, labels = out.task == task, net.learned.labels
    if labels is None:
        routed = found & (out.label == y)
    else:
        routed = out.label == labels.numbered(torch.full_like(y, task), y)
    oracle = net.task_logits(x, net.tasks[task].name).argmax(1) == y
    return torch.stack([oracle, routed, found], 1), y
