"""The numbers that a loader draws: decided by names, and apart from everybody else's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from eideticnet.seeding import derive


class Draws:
    """Lets one pass over ``loader`` and its caller draw in turn from torch's generator, from those that the
    loader, its samplers and datasets hold, and from numpy's and Python's unless it can't draw from them.

    The loader's turns are seeded by ``names``; what the caller does meanwhile draws from the caller's
    numbers, and a pass that is abandoned leaves nothing to put back.
    """

    def __init__(self, loader: object, *names: object, draws_elsewhere: bool = True) -> None:
        self._own = list(_generators(loader, {}))
        self._elsewhere = draws_elsewhere
        callers = self._states()
        for generator in self._own:
            generator.manual_seed(derive(*names))
        order = derive(*names, "order")
        torch.default_generator.manual_seed(order)
        if draws_elsewhere:
            random.seed(order)
            np.random.seed(order % 2**32)
        self._pass = self._states()
        self._put(callers)

    @contextmanager
    def its(self) -> Iterator[None]:
        """The loader's turn."""
        callers = self._states()
        self._put(self._pass)
        try:
            yield
        finally:
            self._pass = self._states()
            self._put(callers)

    def _states(self) -> tuple[list[Tensor], Any]:
        elsewhere = (random.getstate(), np.random.get_state()) if self._elsewhere else None
        return [torch.get_rng_state(), *(generator.get_state() for generator in self._own)], elsewhere

    def _put(self, states: tuple[list[Tensor], Any]) -> None:
        (torchs, *own), elsewhere = states
        torch.set_rng_state(torchs)
        for generator, state in zip(self._own, own, strict=True):
            generator.set_state(state)
        if elsewhere:
            random.setstate(elsewhere[0])
            np.random.set_state(elsewhere[1])


def _generators(owner: object, seen: dict[int, object]) -> Iterator[torch.Generator]:
    """Those that ``owner`` holds, or what it is made of."""
    if id(owner) in seen:
        return
    seen[id(owner)] = owner
    if isinstance(owner, torch.Generator):
        yield owner
    parts = getattr(owner, "__dict__", {})
    for part in (*parts.values(), *parts.get("datasets", ())):
        if isinstance(part, torch.Generator | DataLoader | Sampler | Dataset):
            yield from _generators(part, seen)
