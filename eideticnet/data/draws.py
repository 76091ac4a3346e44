"""The numbers that a loader draws: decided by names, and apart from all others."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from eideticnet.data.held import Generator, generators
from eideticnet.seeding import TRACING, derive, seeded

PATIENCE = 60.0
"""Seconds to wait for another thread's loader, which may wait for this one."""
_alone = threading.RLock()


@contextmanager
def process_alone() -> Iterator[None]:
    """Have numpy's and Python's global generators, which are the process's, for this thread's work alone."""
    waited = not _alone.acquire(timeout=PATIENCE)
    if waited:
        warnings.warn(
            f"another thread has loaded or traced for {PATIENCE:.0f} s: what both of them draw from "
            "numpy's and Python's generators may be mixed",
            RuntimeWarning,
            stacklevel=3,
        )
    try:
        yield
    finally:
        if not waited:
            _alone.release()


@contextmanager
def tracing() -> Iterator[None]:
    """Have torch trace something: one thread at a time, for it changes what is the process's. The order of
    the locks is that of a loader that draws."""
    with process_alone(), TRACING:
        yield


class Draws:
    """Lets one pass over ``loader`` and its caller draw in turn from torch's generator, from those of any
    library that the loader holds, or what it is made of, and, if ``draws_elsewhere``, from numpy's and
    Python's global ones.

    The loader's turns are seeded by ``names``; what the caller does meanwhile draws from the caller's
    numbers, and a pass that is abandoned leaves nothing to put back. Torch's numbers are the pass's own.
    The others are the process's, so one such loader works at a time, in any thread; what other
    code draws from numpy's and Python's global generators at that moment would be missing here.
    """

    def __init__(self, loader: object, *names: object, draws_elsewhere: bool = True) -> None:
        self._own = generators(loader)
        self._elsewhere, self._turns = draws_elsewhere, 0
        self._numbers = seeded(*names, "order")
        held = [  # torch's are plain loaders' too
            _seeded_state(g, *names, *(() if isinstance(g, torch.Generator) else (i,)))
            for i, g in enumerate(self._own)
        ]
        order = derive(*names, "order")
        self._pass: _States = held, None
        if draws_elsewhere:
            state = np.random.RandomState(order % 2**32).get_state()
            self._pass = held, (random.Random(order).getstate(), state)

    @contextmanager
    def its(self) -> Iterator[None]:
        """The loader's turn."""
        self._turns += 1
        if self._own or self._elsewhere:
            with self._process(), self._numbers:
                yield
        elif self._turns <= 2:  # when it begins and for its first batch: then its order is drawn
            with self._numbers:
                yield
        else:
            yield

    @contextmanager
    def _process(self) -> Iterator[None]:
        """Let the process's generators be this pass's."""
        with process_alone():
            callers = self._states()
            self._put(self._pass)
            try:
                yield
            finally:
                self._pass = self._states()
                self._put(callers)

    def _states(self) -> _States:
        elsewhere = (random.getstate(), np.random.get_state()) if self._elsewhere else None
        return [_state_of(generator) for generator in self._own], elsewhere

    def _put(self, states: _States) -> None:
        held, elsewhere = states
        for generator, state in zip(self._own, held, strict=True):
            _give(generator, state)
        if elsewhere:
            random.setstate(elsewhere[0])
            np.random.set_state(elsewhere[1])


_States = tuple[list[Any], Any]


def _seeded_state(generator: Generator, *names: object) -> Any:
    """The state that ``generator`` would have if ``names`` decided its numbers."""
    seed = derive(*names)
    if isinstance(generator, torch.Generator):
        return torch.Generator(generator.device).manual_seed(seed).get_state()
    if isinstance(generator, np.random.Generator):
        return type(generator.bit_generator)(seed).state
    if isinstance(generator, np.random.RandomState):
        return np.random.RandomState(type(generator._bit_generator)(seed)).get_state(legacy=False)
    return random.Random(seed).getstate()


def _state_of(generator: Generator) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _give(generator: Generator, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
