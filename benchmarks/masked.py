"""``train.vs_masked`` of ``make bench-paper``: the paper's method as it says it, a dense network and masks.

Pruned neurons and the synapses from later neurons to earlier ones are zeros in the dense weights, whose
gradients are masked, as those of frozen neurons are. Nothing is multiplied by a mask on the way forward, as
``torch.nn.utils.prune`` would, and no optimizer holds old heads, so it is as fast as dense layers let it be.
Both learn MNIST-5's five tasks through the same training loop with the same epochs, widths and measurements:
the blocks choose when to stop and how far to prune, by the paper's recipe, and the masked network takes the
very same course. Seconds are the processor's, on one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.problems import DATA, Part, Problem, Split, mnist
from benchmarks.train import TASKS
from eideticnet import EideticNetwork, Event, Pruning, Training
from eideticnet.learn.states import Kept
from eideticnet.learn.training import Classify, Job, accuracy, train_epoch
from eideticnet.models import mlp
from eideticnet.seeding import seeded

FREE = 1 << 30
"""The owner of a neuron that no task has: later than all tasks."""
TRAINING = Training(patience=10, settle_patience=1, max_epochs=20)
PRUNING = Pruning(step=0.05, threshold=0.001, recovery_epochs=5)
"""The paper's, which has no epochs after pruning; one is the least there is here."""


class MaskedMlp(nn.Module):
    """Linear layers with ReLU, and a linear head for each task. ``owners``: of each layer, which task each
    neuron belongs to, (width,)."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = zip((inputs, *hidden), hidden, strict=False)
        self.layers: Any = nn.ModuleList(nn.Linear(*pair) for pair in widths)
        self.heads: Any = nn.ModuleList()
        self.owners = [torch.full((width,), FREE) for width in hidden]
        for place, layer in enumerate(self.layers):
            for weight in layer.parameters():
                weight.register_post_accumulate_grad_hook(partial(self._mask_gradient, place))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x, len(self.heads) - 1)

    def logits(self, x: Tensor, task: int) -> Tensor:
        """Of normalised x (N, inputs) the task's logits (N, C)."""
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.heads[task](x)  # type: ignore[no-any-return]

    def _mask_gradient(self, place: int, weight: nn.Parameter) -> None:
        """Frozen rows learn nothing. A pruned neuron is 0, so neither its weights nor its readers' learn."""
        assert weight.grad is not None, "it was just accumulated"
        weight.grad.mul_(self._mine[place] if weight.ndim == 1 else self._mine[place][:, None])

    @torch.no_grad()
    def begin(self, classes: int) -> None:
        """A further task, with new weights for all free neurons, and a head."""
        task = len(self.heads)
        self.heads.requires_grad_(False).append(nn.Linear(len(self.owners[-1]), classes))
        for layer, owner in zip(self.layers, self.owners, strict=True):
            mine, fresh = owner == FREE, nn.Linear(layer.in_features, layer.out_features)
            layer.weight[mine], layer.bias[mine] = fresh.weight[mine], fresh.bias[mine]
            owner[mine] = task
        self._connect()

    @torch.no_grad()
    def keep(self, neurons: Sequence[Tensor]) -> None:
        """Of the task's neurons only these, by layer; the rest is free and feeds nothing."""
        task = len(self.heads) - 1
        for owner, kept in zip(self.owners, neurons, strict=True):
            owner[owner == task] = FREE
            owner[kept] = task
        self._connect()

    def _connect(self) -> None:
        """Zeros where a pruned neuron is, and where a neuron of the task would read one."""
        task = len(self.heads) - 1
        self._mine = [(owner == task).float() for owner in self.owners]
        for layer, owner in zip(self.layers, self.owners, strict=True):
            layer.weight[owner == FREE] = layer.bias[owner == FREE] = 0
        for layer, before in zip([*self.layers[1:], self.heads[-1]], self.owners, strict=True):
            layer.weight[:, before == FREE] = 0

    def restore(self, owners: list[Tensor]) -> None:
        """Whose the neurons were before ``keep``."""
        self.owners = owners
        self._mine = [(owner == len(self.heads) - 1).float() for owner in owners]

    def scores(self) -> list[tuple[Tensor, Tensor]]:
        """Of each layer the task's neurons, and the L2 norms of what comes into them."""
        task = len(self.heads) - 1
        mine = [torch.nonzero(owner == task)[:, 0] for owner in self.owners]
        return [(i, layer.weight[i].norm(dim=1)) for i, layer in zip(mine, self.layers, strict=True)]

    def learned(self) -> list[nn.Parameter]:
        """What an optimizer has to hold."""
        return [*self.layers.parameters(), *self.heads[-1].parameters()]


@dataclass
class Course:
    """What a task took: epochs until it converged, of each trial the widths that it left and the epochs in
    which it recovered or did not, the widths that stayed, and epochs until it settled."""

    train: int = 0
    trials: list[tuple[list[int], int]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    settle: int = 0
    _recovering: int = 0

    def event(self, event: Event) -> None:
        """What ``train_task`` reports."""
        if event.phase == "prune":
            self.trials.append(([*event.neurons.values()], self._recovering))
            self._recovering = 0
        elif event.phase == "recover":
            self._recovering += 1
        elif event.phase in ("train", "settle"):
            setattr(self, event.phase, getattr(self, event.phase) + 1)

    @property
    def epochs(self) -> int:
        return self.train + self.settle + sum(epochs for _, epochs in self.trials)

    def recovered(self, trial: int) -> bool:
        """Whether what the trial left was gone on with, which only then was smaller."""
        after = self.trials[trial + 1][0] if trial + 1 < len(self.trials) else self.kept
        return all(a <= b for a, b in zip(after, self.trials[trial][0], strict=True))


def blocks(problem: Problem, seed: int, split: Split) -> tuple[float, list[Course]]:
    """Seconds of an ``EideticNetwork`` for the five tasks, and their courses."""
    x, courses = split.train.x, [Course() for _ in TASKS]
    net = EideticNetwork(mlp(problem.pixels, problem.hidden), x[:2], inputs=problem.inputs, seed=seed)
    tasks = split.train.tasks(problem.batch_size)
    start = time.process_time()
    for (name, loader), course in zip(tasks.items(), courses, strict=True):
        options = {"pruning": problem.pruning, "training": problem.training, "report": course.event}
        net.train_task(name, loader, ["a", "b"], **options)  # type: ignore[arg-type]
        course.kept = [neurons[name] for neurons in net.capacity().values()]
    return time.process_time() - start, courses


def masked(problem: Problem, seed: int, split: Split, courses: Sequence[Course]) -> tuple[float, MaskedMlp]:
    """Seconds of the masked network for the same courses, and the network."""
    tasks, start = split.train.tasks(problem.batch_size), time.process_time()
    net = MaskedMlp(problem.pixels, problem.hidden)
    for (name, loader), course in zip(tasks.items(), courses, strict=True):
        with seeded(seed, name):
            net.begin(2)
        objective = Classify(2, problem.training.label_smoothing)
        job = Job(name, loader, objective, problem.inputs, problem.training, (seed, name), _forward)
        _take(job, net, course)
    return time.process_time() - start, net


def _forward(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)  # type: ignore[no-any-return]


def _take(job: Job, net: MaskedMlp, course: Course) -> None:
    """Learn one task by the course."""
    _converge(job, net, "train", course.train)
    for trial, (widths, epochs) in enumerate(course.trials):
        before, owners = Kept(net), [owner.clone() for owner in net.owners]
        ranked = [(mine, norm.argsort(stable=True)) for mine, norm in net.scores()]
        net.keep([mine[order[-width:]] for (mine, order), width in zip(ranked, widths, strict=True)])
        accuracy(job, net)
        optimizer = job.training.optimizer_of(net.learned())
        for epoch in range(epochs):
            train_epoch(job, net, optimizer, "prune", trial, epoch)
            accuracy(job, net)
        if not course.recovered(trial):
            net.load_state_dict(before.state_dict())
            net.restore(owners)
    _converge(job, net, "settle", course.settle)


def _converge(job: Job, net: MaskedMlp, phase: str, epochs: int) -> None:
    """So many epochs; the weights kept are the last ones that reached the best accuracy."""
    best, kept, optimizer = accuracy(job, net), Kept(net), job.training.optimizer_of(net.learned())
    for epoch in range(epochs):
        train_epoch(job, net, optimizer, phase, epoch)
        if (reached := accuracy(job, net)) >= best:
            best = reached
            kept.keep(net)
    net.load_state_dict(kept.state_dict())


def compare(problem: Problem, seed: int, split: Split) -> dict[str, float]:
    """Both, and their ratio."""
    ours, courses = blocks(problem, seed, split)
    theirs, _ = masked(problem, seed, split, courses)
    return {
        "train.vs_masked": ours / theirs,
        "train.blocks.seconds": ours,
        "train.masked.seconds": theirs,
        "train.vs_masked.epochs": sum(course.epochs for course in courses),
    }


def figures() -> dict[str, float]:
    """Of MNIST-5, all training images that are not held out; nothing where ``EIDETIC_DATA`` is not set."""
    if DATA not in os.environ:
        print(
            f"train.vs_masked is left out: set {DATA} to a folder with mnist/train-images-idx3-ubyte.gz, ..."
        )
        return {}
    torch.set_num_threads(1)
    problem = mnist(Path(os.environ[DATA]) / "mnist")
    split = problem.split(0)
    plain = len(split.train.y) // 2  # the other half are shifted copies
    train = Part(split.train.x[:plain], split.train.y[:plain])
    return compare(replace(problem, training=TRAINING, pruning=PRUNING), 0, replace(split, train=train))
