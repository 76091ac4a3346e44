"""How many threads a job is worth: small layers learn faster on one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from eideticnet.learn.training import Job, device_of
from eideticnet.seeding import TRACING

SMALL = 2**27
"""Multiply-adds of an operation forward, on one batch, up to which it runs on one thread: it takes some
10 ms there. Two threads on two busy cores made such steps 4 to 100 times as long (an MLP of two layers of
256: 4.6 ms instead of 0.5; of 1,024: 37 instead of 5.4; two convolutions 16 to 16 on 16x16: 336 instead of
5.6), because they wait for each other at each operation; what two idle cores can save is half."""


def worth(job: Job, block: nn.Module) -> int:
    """The threads that the job asks for, or else one where every layer is small, or else torch's."""
    if job.training.threads is not None:
        return job.training.threads
    default, device = number(), device_of(block)
    if default == 1 or device.type != "cpu":
        return default
    counter = _Counter()
    for x, _ in job.batches(device, "threads"):
        with TRACING, torch.no_grad(), counter:
            job.logits(block.eval(), x)
        break
    return 1 if counter.most <= SMALL else default


class _Users(threading.local):
    """How many ``using`` this thread is in."""

    own = 0


_lock, _users, _all, _default = threading.Lock(), _Users(), 0, 1


def number() -> int:
    """Torch's number of threads. Who changes it in one thread changes it for threads to come, too: for those
    it is what it was before."""
    return _default if _all and not _users.own else torch.get_num_threads()


@contextmanager
def using(count: int) -> Iterator[None]:
    """This number of threads while the context lasts; then as many as before."""
    global _all, _default
    with _lock:
        before = number()
        _default = _default if _all else before
        _all, _users.own = _all + 1, _users.own + 1
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
        with _lock:
            _all, _users.own = _all - 1, _users.own - 1


class _Counter(TorchDispatchMode):
    """``most``: multiply-adds of the operation that has the most. A recurrence, whose steps are small,
    is not counted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operations = flop_registry.get(func._overloadpacket, lambda *args, **kwargs: 0)
        self.most = max(self.most, operations(*args, **(kwargs or {}), out_val=out) // 2)
        return out
