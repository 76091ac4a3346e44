"""Jobs that are killed in a process of their own, for tests of the journal."""

from __future__ import annotations

import copy
import os
import signal
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from eideticnet import EideticNetwork, Journal, Pruning, Routing, Training
from tests.support.forked import forking
from tests.support.small_networks import names, task_loader, trained

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
    "cosine": ADAM,
    "momentum": partial(counted(torch.optim.SGD), lr=0.05, momentum=0.9, weight_decay=1e-3),
}


@cache
def begun() -> EideticNetwork:
    """A network with one task, which all jobs here build on."""
    return trained(1, (16, 12), router=False)


def learn(
    journal: Journal | None,
    optimizer: str = "adam",
    pruning: Pruning = Pruning(step=0.4, threshold=0.05, recovery_epochs=2),
    report: Callable[..., Any] = lambda event: None,
    *,
    routing: bool = False,
    net: EideticNetwork | None = None,
) -> EideticNetwork:
    """A second task, or a router for the first, through BatchNorm and Dropout."""
    schedule = "cosine" if optimizer == "cosine" else "constant"
    training = Training(
        OPTIMIZERS[optimizer], patience=1, settle_patience=2, max_epochs=4, lr_schedule=schedule
    )
    options: dict[str, Any] = {"training": training, "report": report, "journal": journal}
    net, STEPS[0] = net or copy.deepcopy(begun()), 0
    if routing:
        net.fit_router({"task 0": task_loader(0)}, routing=Routing(pruning=pruning), **options)
    else:
        net.train_task("second", task_loader(2, 3), names(3), pruning=pruning, **options)
    return net


class Killer:
    """A report callback that kills its own process at the n-th event."""

    def __init__(self, after: int, by: int = signal.SIGKILL) -> None:
        self.left, self.by = after, by

    def __call__(self, event: Any) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), self.by)


def _child(folder: Path, path: Path, after: int, by: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    net = EideticNetwork.load(folder)  # not traced again, which takes seconds the first time
    learn(Journal(path, interval=0.0), report=Killer(after, by), net=net, **options)


def killed(path: Path, after: int, by: int = signal.SIGKILL, **options: Any) -> bool:
    """Whether the job was killed at the ``after``-th event, rather than finished before it."""
    with tempfile.TemporaryDirectory() as folder:
        begun().save(folder)
        child = forking().Process(target=_child, args=(Path(folder), path, after, by, options))
        child.start()
        child.join()
    assert child.exitcode in (0, 1, -by), child.exitcode
    return child.exitcode != 0
