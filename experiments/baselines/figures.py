"""What is told of a method: accuracies after each task, what it keeps, and what an answer costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eideticnet.experiments.baselines.answers import Answer
from eideticnet.experiments.baselines.plain import example, headed
from eideticnet.experiments.baselines.problem import Problem
from eideticnet.learn.training import device_of


@dataclass
class Accuracies:
    """Row i of ``matrix``: the accuracy on the test data of each task once i + 1 of them are learned, None
    where it is not learned yet; each the mean over the task's classes. ``by_class``: those at the end."""

    matrix: list[list[float | None]] = field(default_factory=list)
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)

    def measure(self, problem: Problem, learned: int, answer: Answer) -> None:
        """A further row, after ``learned`` tasks."""
        names = problem.names[:learned]
        self.by_class = {name: _shares(problem, task, answer) for task, name in enumerate(names)}
        rest: list[None] = [None] * (len(problem.data) - learned)
        self.matrix.append([*map(_mean, self.by_class.values()), *rest])

    def told(self) -> dict[str, Any]:
        """As JSON has it: ``tasks`` and ``mean`` are the last row and its mean."""
        tasks = {task: _mean(shares) for task, shares in self.by_class.items()}
        mean = sum(tasks.values()) / len(tasks)
        return {"mean": mean, "tasks": tasks, "classes": self.by_class, "matrix": self.matrix}


def _mean(shares: Mapping[str, float]) -> float:
    return sum(shares.values()) / len(shares)


@torch.no_grad()
def _shares(problem: Problem, task: int, answer: Answer) -> dict[str, float]:
    """Of each class of a task that has test inputs, the share of them that is answered rightly."""
    rows = problem.test(task)
    parts = [(answer(x.to(problem.device), task).cpu() == y, y) for x, y in rows.batches()]
    right, y = (torch.cat(each) for each in zip(*parts, strict=True))
    return {str(rows.classes[c]): float(right[y == c].double().mean()) for c in y.unique().tolist()}


@dataclass
class Outcome:
    """Of one method and seed: accuracies with the task ``given`` and, where the method can, with the task
    ``found``; bytes that are kept of the networks, and beside them to learn further tasks; multiply-adds of
    an answer whose task is given, as a multiple of the plain network's; which data of earlier tasks it has
    ``seen`` ("all", "memory K" or "none")."""

    given: Accuracies
    found: Accuracies | None
    network_bytes: int
    memory_bytes: int
    multiply_adds: float
    seen: str
    notes: list[str] = field(default_factory=list)


def size(module: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(t.nbytes for t in module.state_dict().values())


def multiply_adds(problem: Problem, net: nn.Module) -> float:
    """Of one pass of ``net``, as a multiple of the plain network's: the trunk with one head."""
    plain = headed(problem.trunk(), problem.classes, problem.config.input)
    return _counted(problem, net) / _counted(problem, plain)


@torch.no_grad()
def _counted(problem: Problem, net: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        net.eval()(example(problem.config.input).to(device_of(net)))
    return int(counter.get_total_flops())
