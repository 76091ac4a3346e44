"""Avalanche's training, ended by the rule that ends everything else here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from eideticnet.errors import DivergedError
from eideticnet.experiments.baselines.answers import Scope
from eideticnet.learn.states import Kept
from eideticnet.learn.training import LAST_PHASE, Event, Training, device_of
from eideticnet.network import Listener

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""A pass over raw inputs (N, *shape) and labels (N,) among all classes, always the same one."""


class Converging(SupervisedPlugin):  # type: ignore[misc]
    """Trains until the accuracy on ``parts``, a mean over these, is flat for ``patience`` epochs, and again
    until it settles, as ``eideticnet.learn.training.converge`` does: a new optimizer for each phase, and
    the weights that are kept are the last ones that reached the best accuracy."""

    def __init__(self, training: Training, scope: Scope, report: Listener) -> None:
        super().__init__()
        self.training, self.scope, self.report = training, scope, report

    def begin(
        self, task: str, parts: Sequence[Batches], augment: Callable[[Tensor], Tensor], *, left: int
    ) -> None:
        """What comes now, how its training batches are changed, and how many tasks are ``left`` after it."""
        self.task, self.parts, self.augment, self.left = task, parts, augment, left

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._begin(strategy, "train", self.training.patience)

    def _begin(self, strategy: Any, phase: str, patience: int) -> None:
        self.phase, self.patience = phase, patience
        self.epochs, self.flat, self.losses = 0, 0, list[float]()
        self.best, self.kept = self._accuracy(strategy.model), Kept(strategy.model)
        strategy.optimizer = self.training.optimizer_of(strategy.model.parameters())
        self.rates = [group["lr"] for group in strategy.optimizer.param_groups]

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        for group, rate in zip(strategy.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.training.rate(self.epochs)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        strategy.mbatch[0] = self.augment(strategy.mbatch[0])

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if not torch.isfinite(strategy.loss):
            raise DivergedError(
                f"{self.task}: the loss became {strategy.loss.item()}; lower the learning rate"
            )
        self.losses.append(strategy.loss.item())

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        reached, loss = self._accuracy(strategy.model), sum(self.losses) / len(self.losses)
        self.flat = 0 if reached > self.best else self.flat + 1
        if reached >= self.best:
            self.best = reached
            self.kept.keep(strategy.model)
        self.report(Event(self.task, self.phase, self.epochs, loss, reached))
        self.epochs, self.losses = self.epochs + 1, []
        if self.flat < self.patience and self.epochs < self.training.max_epochs:
            return
        strategy.model.load_state_dict(self.kept.state_dict())
        if self.phase == LAST_PHASE:
            strategy.stop_training()
        else:
            strategy.model.halfway(self.left)
            self._begin(strategy, LAST_PHASE, self.training.settle_patience)

    def _accuracy(self, model: nn.Module) -> float:
        shares = [share_right(model, part, self.scope) for part in self.parts]
        model.train()
        return sum(shares) / len(shares)


@torch.no_grad()
def share_right(model: nn.Module, batches: Batches, scope: Scope) -> float:
    """Of all rows of a pass."""
    model.eval()
    device, parts = device_of(model), list[Tensor]()
    for x, y in batches():
        parts.append(scope.right(model(x.to(device)), y.to(device)))
    return float(torch.cat(parts).double().mean())
