"""Lessons that are killed, for tests of the journal: in a process of their own, forked from a
server that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nets import names, task_loader
from trunks import FEATURES, Mlp

from eideticnet import EideticNetwork, Journal, Pruning, Training

STEPS = [0]
"""Optimizer steps taken in this process."""


def counted(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    class Counted(kind):  # type: ignore[misc, valid-type]
        def step(self, closure: Any = None) -> Any:
            STEPS[0] += 1
            return super().step(closure)

    return Counted


ADAM = partial(counted(torch.optim.Adam), lr=0.02)
OPTIMIZERS = {
    "adam": ADAM,
    "fused adam": partial(counted(torch.optim.Adam), lr=0.02, fused=True),
    "momentum": partial(counted(torch.optim.SGD), lr=0.05, momentum=0.9, weight_decay=1e-3),
}


def learn(
    journal: Journal | None,
    optimizer: str = "adam",
    pruning: Pruning = Pruning(step=0.4, threshold=0.05, recovery_epochs=2),
    report: Callable[..., Any] = lambda event: None,
    *,
    routing: bool = False,
) -> EideticNetwork:
    """One task after another that is quick, or a router for it, with BatchNorm and Dropout."""
    training = Training(OPTIMIZERS[optimizer], patience=1, settle_patience=2, max_epochs=4)
    net = EideticNetwork(Mlp((16, 12)), torch.zeros(2, FEATURES))
    first = Training(OPTIMIZERS[optimizer], patience=1, settle_patience=1, max_epochs=1)
    few = Pruning(step=0.5, threshold=0.9, recovery_epochs=0, min_width=3)
    net.train_task("first", task_loader(1), names(2), training=first, pruning=few)
    STEPS[0] = 0
    options: dict[str, Any] = {"training": training, "pruning": pruning, "report": report, "journal": journal}
    if routing:
        net.fit_router({"first": task_loader(1)}, **options)
    else:
        net.train_task("second", task_loader(2, 3), names(3), **options)
    return net


class Killer:
    """A report callback that kills its own process at the n-th event."""

    def __init__(self, after: int, by: int = signal.SIGKILL) -> None:
        self.left, self.by = after, by

    def __call__(self, event: Any) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), self.by)


def _child(path: Path, after: int, by: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    learn(Journal(path, interval=0.0), report=Killer(after, by), **options)


def killed(path: Path, after: int, by: int = signal.SIGKILL, **options: Any) -> bool:
    """Whether the lesson was killed at the ``after``-th event, rather than finished before it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lessons"])
    child = context.Process(target=_child, args=(path, after, by, options))
    child.start()
    child.join(60)
    code = child.exitcode
    assert code is not None, "the lesson hangs"
    assert code in (0, 1, -by), code
    return code != 0
