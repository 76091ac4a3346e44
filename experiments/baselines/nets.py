"""What continual methods train: the trunk with one head, and what they do to it before and after a task."""

from __future__ import annotations

import copy
from typing import Any

import torch
from avalanche.models.packnet import PackNetModel, PackNetModule
from torch import Tensor, nn

from eideticnet.errors import ConfigError
from eideticnet.experiments.baselines.figures import size
from eideticnet.inputs import Inputs

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class Net(nn.Module):
    """A trunk and a head: raw x (N, *shape) to logits (N, C) of all classes."""

    def __init__(self, inputs: Inputs, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.inputs = inputs
        self.trunk: Any
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._features(self.inputs.normalise(x)))  # type: ignore[no-any-return]

    def _features(self, x: Tensor) -> Tensor:
        return self.trunk(x)  # type: ignore[no-any-return]

    def at(self, task: int) -> Net:
        """The net as that task's inputs run through it."""
        return self

    def halfway(self, left: int) -> None:
        """The task is learned as well as it will be, and so many are ``left``."""

    def learned(self) -> None:
        """The task is done."""

    def bytes(self) -> tuple[int, int]:
        """Of weights, and of what else is kept."""
        return size(self), 0


class _Norms(PackNetModule):  # type: ignore[misc]
    """A norm for each task: Avalanche's PackNet takes none, and no later task may change an earlier one's."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self._fresh = [copy.deepcopy(norm)]  # no module of this one
        self.norms = nn.ModuleList([norm])

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[self.active_task](x)  # type: ignore[no-any-return]

    def _prune(self, prune_proportion: float) -> None:
        """They belong to one task as they are."""

    def _freeze_pruned(self) -> None:
        self.norms.requires_grad_(False)

    def _activate_task(self, task_id: int) -> None:
        while len(self.norms) <= task_id:
            self.norms.append(copy.deepcopy(self._fresh[0]))


class Packed(Net):
    """Each task keeps an equal share of the trunk's weights, the largest ones (Mallya and Lazebnik 2018), its
    own norms, and its own classes of the head; biases are the first task's."""

    def __init__(self, inputs: Inputs, trunk: nn.Module, head: nn.Linear) -> None:
        for path, norm in [*trunk.named_modules()]:
            if isinstance(norm, NORMS):
                trunk.set_submodule(path, _Norms(norm))
        try:
            packed = PackNetModel(trunk)
        except ValueError as error:
            raise ConfigError(f"packnet: {error}; it takes linear layers, convolutions and norms") from None
        super().__init__(inputs, packed, head)
        packed._auto_adapt = False  # to classes, of which it has none
        self.task: Tensor
        self.register_buffer("task", torch.zeros(1, dtype=torch.long))

    def _features(self, x: Tensor) -> Tensor:
        return self.trunk(x, self.task)  # type: ignore[no-any-return]

    def at(self, task: int) -> Packed:
        self.task.fill_(task)
        return self

    def halfway(self, left: int) -> None:
        self.trunk.prune(left / (left + 1))

    def learned(self) -> None:
        self.trunk.freeze_pruned()

    def bytes(self) -> tuple[int, int]:
        owners = sum(t.numel() for name, t in self.named_buffers() if name.endswith("task_index"))
        return sum(p.nbytes for p in self.parameters()), owners
