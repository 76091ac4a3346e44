"""What every method gets: the tasks of a configuration in their order, as ``eidetic train`` reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor, nn

from eideticnet.data.pairs import as_tensor
from eideticnet.data.rows import Loader, Rows
from eideticnet.errors import ConfigError
from eideticnet.runs.config import Config
from eideticnet.runs.run import made, opened, usable
from eideticnet.runs.sources import TaskData
from eideticnet.users_code import import_callable


@dataclass(frozen=True)
class Options:
    """Of replay, the examples that are kept of each task; of EWC, the strength of its penalty."""

    memory: int | None = None
    strength: float | None = None


@dataclass(frozen=True)
class Problem:
    """The tasks of ``config`` and what they are learned from; ``seed`` also decides what is held out."""

    config: Config
    data: Sequence[TaskData]

    @classmethod
    def of(cls, config: Config, seed: int) -> Problem:
        """Its data is opened, and looked at to the last row."""
        if any(task.pretrained for task in config.tasks):
            raise ConfigError("a baseline starts from random weights; leave out `pretrained`")
        if config.label_space == "shared":
            raise ConfigError('baselines count each task\'s classes apart; leave label_space = "shared" out')
        config = config.model_copy(update={"seed": seed})
        return cls(config, [opened(task, config) for task in config.tasks])

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def names(self) -> list[str]:
        """Of the tasks, in the order of learning."""
        return [task.name for task in self.config.tasks]

    @cached_property
    def spans(self) -> list[range]:
        """Of each task, the numbers of its classes among all."""
        ends = list(accumulate(len(task.classes) for task in self.config.tasks))
        return [range(b, e) for b, e in zip([0, *ends], ends, strict=False)]

    @property
    def classes(self) -> int:
        """How many there are of all tasks."""
        return self.spans[-1].stop

    @property
    def device(self) -> torch.device:
        return usable(self.config.device)

    def only(self, logits: Tensor, task: int) -> Tensor:
        """Of logits (N, C) of all classes those of one task."""
        return logits[:, self.spans[task].start : self.spans[task].stop]

    def trunk(self) -> nn.Module:
        """A new one, with weights from the random numbers in use."""
        return made("trunk", self.config.trunk.target, self.config.trunk.arguments)

    def augment(self, task: int) -> Callable[[Tensor], Tensor]:
        """What a training batch of raw inputs (N, *shape) goes through, by the numbers in use."""
        named = self.config.tasks[task]
        if named.augment is None:
            return lambda x: x
        change = import_callable(f"task {named.name!r}: augment", named.augment)
        return lambda x: as_tensor("x", change(x, **named.augment_arguments))

    def train(self, task: int) -> Rows:
        """Raw inputs and labels from 0 of one task."""
        return self._rows(task, self.data[task].train)

    def test(self, task: int) -> Rows:
        """Those that nothing is learned from."""
        return self._rows(task, self.data[task].test)

    def validation(self, task: int) -> Rows | None:
        """Those that choices are made by, where the configuration sets a share apart."""
        apart = self.data[task].validation
        return None if apart is None else self._rows(task, apart)

    def _rows(self, task: int, loader: Loader) -> Rows:
        named = self.config.tasks[task]
        return Rows(named.name, loader, named.classes, self.config.input)
