"""Randomness as a function of names: the same seed and names give the same numbers.

They come from generators of their own, in the thread that asks for them. What other code draws from
torch's process-wide generators changes nothing here, and nothing here changes those.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_CPU = torch.device("cpu")
_COMPOSITE = """
    dropout1d dropout2d dropout3d feature_dropout feature_alpha_dropout gru lstm multi_head_attention_forward
    fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d gumbel_softmax
    fractional_max_pool3d_with_indices kaiming_normal_ kaiming_uniform_ orthogonal_ pca_lowrank rnn_relu
    rnn_tanh scaled_dot_product_attention sparse_ svd_lowrank trunc_normal_ xavier_normal_ xavier_uniform_
"""
"""Functions that draw by other ones."""


def derive(*names: object) -> int:
    """A 63-bit seed from names, the first usually being the network's seed."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Numbers(TorchFunctionMode):
    """While this context lasts, torch's random functions called in this thread draw the numbers that
    ``names`` decide; entered again, the next ones. ``torch.manual_seed`` and its like concern them alone."""

    def __init__(self, *names: object) -> None:
        super().__init__()
        self._seed, self._process = derive(*names), os.getpid()
        self._generators: dict[torch.device, torch.Generator] = {}
        self.drawn_from = _Drawing(self)

    def generator(self, device: torch.device = _CPU) -> torch.Generator:
        """The one that numbers on ``device`` come from."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    @property
    def used(self) -> bool:
        """Whether any was drawn yet."""
        return bool(self._generators)

    @property
    def inherited(self) -> bool:
        """Whether this is a process that was forked meanwhile, as the workers of a loader are: they
        have seeds of their own."""
        return os.getpid() != self._process

    def __enter__(self) -> Numbers:
        _active.stack = [*_active.stack, self]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _active.stack = _active.stack[:-1]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _draws(func) or self.inherited or _active.stack[-1] is not self:  # the innermost has given one
            return func(*args, **kwargs)
        if (given := kwargs.get("generator")) is torch.default_generator:
            kwargs = {**kwargs, "generator": None}
        elif given is not None:
            return func(*args, **kwargs)
        if func is F.dropout and (x := _dropped(self, *args, **kwargs)) is not None:
            return x
        with self.drawn_from:
            return func(*args, **kwargs)


def _dropped(
    numbers: Numbers, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor | None:
    """``F.dropout`` by the operations that it consists of on a CPU, which is faster than to look at each of
    them as it comes; None where it is something else."""
    plain = type(x) is Tensor and x.device.type == "cpu" and not inplace and training and 0 < p < 1
    if not plain or not x.numel():
        return None
    with TRACING:
        return x * torch.empty_like(x).bernoulli_(1 - p, generator=numbers.generator()).div_(1 - p)


def seeded(*names: object) -> Numbers:
    """Run with the numbers that ``names`` decide."""
    return Numbers(*names)


def drawing() -> AbstractContextManager[object]:
    """In it, operations called by their overloads draw the numbers in use, as torch's functions do."""
    own = bool(_active.stack) and not _active.stack[-1].inherited
    return _active.stack[-1].drawn_from if own else nullcontext()


TRACING = threading.RLock()
"""Held while torch traces something, and to draw or to step: while torch.export runs, dropout is made
of other operations, and optimizers compute in another order, in all threads."""


class _Drawing(TorchDispatchMode):
    """Gives every operation that draws the generator of ``numbers``."""

    def __init__(self, numbers: Numbers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = numbers

    def __enter__(self) -> Any:
        TRACING.acquire()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        TRACING.release()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = _device(args, kwargs)
        if device.type == "meta":
            return func(*args, **kwargs)
        own, names = self._numbers.generator(device), _arguments(func)
        if "generator" not in names:
            if (sibling := _with_generator(func)) is not None:
                return sibling(*args, **kwargs, generator=own)
            return _borrowing(own, func, args, kwargs)
        place = names.index("generator")
        given = args[place] if place < len(args) else kwargs.get("generator")
        if given is not None:
            return func(*args, **kwargs)
        if place < len(args):
            return func(*args[:place], own, *args[place + 1 :], **kwargs)
        return func(*args, **{**kwargs, "generator": own})


def _device(args: Iterable[Any], kwargs: dict[str, Any]) -> torch.device:
    """Where an operation computes."""
    tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
    device = torch.device(kwargs.get("device") or (_CPU if tensor is None else tensor.device))
    nameless = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if nameless else device


@cache
def _arguments(func: Any) -> list[str]:
    return [argument.name for argument in func._schema.arguments]


@cache
def _with_generator(func: Any) -> Any:
    """The overload of ``func`` that takes a generator, if there is one."""
    wanted = [name for name in _arguments(func) if name != "generator"]
    for name in func.overloadpacket.overloads():
        overload = getattr(func.overloadpacket, name)
        names = _arguments(overload)
        if "generator" in names and [n for n in names if n != "generator"] == wanted:
            return overload
    return None


def _borrowing(own: torch.Generator, func: Any, args: Any, kwargs: Any) -> Any:
    """Call an operation that draws from the process-wide generator and no other: it stands where ``own``
    does meanwhile."""
    there = own.device.type != "cpu"
    shared = torch.cuda.default_generators[own.device.index] if there else torch.default_generator
    with _lock:
        before = shared.get_state()
        shared.set_state(own.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            own.set_state(shared.get_state())
            shared.set_state(before)


@cache
def _random_functions() -> frozenset[str]:
    """Names of all that draws, in torch, its tensors, ``nn.functional`` and ``nn.init``."""
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("aten::")]
    takers = [s for s in schemas if "dropout" in s.name or "generator" in [a.name for a in s.arguments]]
    return frozenset(s.name.removeprefix("aten::") for s in takers) | set(_COMPOSITE.split())


@lru_cache(1024)
def _draws(function: Callable[..., Any]) -> bool:
    return getattr(function, "__name__", "").partition(".")[0] in _random_functions()


class _Active(threading.local):
    """The numbers in use in this thread, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[Numbers] = []


class _InUse:
    """The generator of the numbers in use in the thread that asks, or else the process-wide one."""

    def __getattr__(self, name: str) -> Any:
        # A backward pass knows no modes, so what it computes again draws from the process's generator.
        own = torch._C._len_torch_function_stack() and _active.stack and not _active.stack[-1].inherited
        return getattr(_active.stack[-1].generator() if own else torch.default_generator, name)


class _Random(ModuleType):
    """``torch.random``, whose functions seed and fork the numbers in use; code that reads its
    ``default_generator`` gets the real one."""

    @property
    def default_generator(self) -> torch.Generator:
        return torch.default_generator


_active, _lock = _Active(), threading.RLock()
# A Dataset may call torch.manual_seed, or fork_rng: that must neither reach other threads nor be lost here.
vars(torch.random)["default_generator"] = _InUse()
torch.random.__class__ = _Random
