"""The state of a module or an optimizer as tensors by name and JSON, and back; never pickle."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class NotStorableError(Exception):
    """A state that holds something else than tensors, numbers, strings and containers of them."""


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON, its tensors put into ``tensors``; ``name`` is what errors call it."""
    if isinstance(value, Tensor):
        key = f"{len(tensors)} {name}"
        tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": key}
    if isinstance(value, dict):
        items = [[pack(k, name, tensors), pack(v, f"{name}/{k}", tensors)] for k, v in value.items()]
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        items = [pack(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise NotStorableError(f"{name} holds a {type(value).__name__}, which a journal can't store")


def has_hooks(optimizer: Optimizer) -> bool:
    """Whether something else steps with it."""
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return any(hooks) or "step" in vars(optimizer)  # by which a scheduler replaces the optimizer's own


def state_of(value: Any) -> dict[str, Any]:
    """Its ``state_dict``; ``NotStorableError`` for an optimizer that has more state than that."""
    if isinstance(value, Optimizer) and has_hooks(value):
        raise NotStorableError("a scheduler or a hook steps with the optimizer: a journal can't store that")
    state: dict[str, Any] = value.state_dict()
    return state


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of ``pack``."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in content}
    items = [unpack(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items


class Kept:
    """A module's state as it was at one moment."""

    def __init__(self, module: nn.Module) -> None:
        self.keep(module)

    def keep(self, module: nn.Module) -> None:
        self._state = copy.deepcopy(module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._state = state
