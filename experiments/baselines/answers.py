"""From logits of all classes to answers and losses, with the task given or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eideticnet.experiments.baselines.problem import Problem

Logits = Callable[[Tensor], Tensor]
"""Of raw inputs (N, *shape) logits (N, C) of all tasks' classes."""
Answer = Callable[[Tensor, int], Tensor]
"""Of raw inputs (N, *shape) of a task, by its place, classes (N,) numbered within that task; any other
number where another task's class is answered."""


def given(problem: Problem, logits: Logits) -> Answer:
    """Answers where the task is given: the greatest of its own logits."""
    return lambda x, task: problem.only(logits(x), task).argmax(1)


def found(problem: Problem, logits: Logits) -> Answer:
    """Answers where it is not: the greatest of all logits."""
    return lambda x, task: logits(x).argmax(1) - problem.spans[task].start


@dataclass(frozen=True)
class Scope:
    """From which classes an answer is chosen: those c whose ``tasks[c]`` (C,) is that of the right one."""

    tasks: Tensor
    label_smoothing: float

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy over these classes alone; ``logits`` (N, C) and ``y`` (N,) are of all."""
        apart = self._apart(y)
        log = logits.masked_fill(apart, -torch.inf).log_softmax(1)
        spread = log.masked_fill(apart, 0.0).sum(1) / (~apart).sum(1)
        hit = log.gather(1, y[:, None])[:, 0]
        return -((1 - self.label_smoothing) * hit + self.label_smoothing * spread).mean()

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        """Which answers are right, bool (N,)."""
        return logits.masked_fill(self._apart(y), -torch.inf).argmax(1) == y

    def _apart(self, y: Tensor) -> Tensor:
        tasks = self.tasks.to(y.device)
        return tasks != tasks[y][:, None]
