"""Small networks trained on small random tasks, for tests that need a real one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from eideticnet import EideticNetwork, Pruning, Routing, Training, batches
from eideticnet.data.rows import Loader
from tests.support.small_trunks import FEATURES, Mlp

QUICK = Training(partial(torch.optim.Adam, lr=2e-2), patience=1, settle_patience=1, max_epochs=3)
LIGHT = Pruning(step=0.5, threshold=0.99, recovery_epochs=0, min_width=3)


def task_data(seed: int, classes: int = 2, rows: int = 48) -> tuple[Tensor, Tensor]:
    """Gaussian clusters, one for each class: (rows, FEATURES) and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, FEATURES, generator=generator)
    y = torch.arange(rows) % classes
    return centres[y] + torch.randn(rows, FEATURES, generator=generator), y


def task_loader(seed: int, classes: int = 2, rows: int = 48) -> Loader:
    return batches(*task_data(seed, classes, rows), 16)


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def trained(
    tasks: int = 3,
    widths: Sequence[int] = (24, 20),
    trunk: Callable[[Sequence[int]], nn.Module] = Mlp,
    *,
    router: bool = True,
    seed: int = 0,
    **options: Any,
) -> EideticNetwork:
    """A network that learned ``tasks`` random tasks of 2, 3, 2, 3, ... classes.

    Trained once for equal arguments; every caller gets a copy of its own.
    """
    return copy.deepcopy(_trained(tasks, tuple(widths), trunk, router, seed, tuple(options.items())))


def untrained(
    widths: Sequence[int], trunk: Callable[[Sequence[int]], nn.Module] = Mlp, *, seed: int = 0
) -> EideticNetwork:
    """A network that has learned nothing yet, of a trunk that is traced once."""
    return trained(0, widths, trunk, router=False, seed=seed)


@cache
def _trained(
    tasks: int,
    widths: tuple[int, ...],
    trunk: Callable[[Sequence[int]], nn.Module],
    router: bool,
    seed: int,
    given: tuple[tuple[str, Any], ...],
) -> EideticNetwork:
    def before(tasks: int) -> EideticNetwork:
        return copy.deepcopy(_trained(tasks, widths, trunk, False, seed, given))

    if router:
        net = before(tasks)
        fit(net)
    elif tasks:
        net, i = before(tasks - 1), tasks - 1
        options = {"training": QUICK, "pruning": LIGHT, "when_full": "reuse", **dict(given)}
        net.train_task(f"task {i}", task_loader(i, 2 + i % 2), names(2 + i % 2), **options)
    else:
        net = EideticNetwork(trunk(widths), torch.zeros(2, FEATURES), seed=seed)
    return net


def fit(net: EideticNetwork) -> None:
    """Fit the router on the data of all of the network's random tasks."""
    loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
    routing = Routing("block", "hard", LIGHT, width="free")  # a twin holds no more than the trunk does
    net.fit_router(loaders, training=QUICK, routing=routing, when_full="reuse")


def held_out(rows: int = 9) -> Tensor:
    return torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(99))


def assert_a_further_task_changes_no_bit(trunk: nn.Module, inputs: Callable[[int], Tensor]) -> None:
    """Two tasks, one after the other, on a trunk of integers; ``inputs`` makes the rows."""
    net, kept, before = EideticNetwork(trunk, inputs(5)), inputs(4), dict[str, Tensor]()
    for name in "ab":
        x = inputs(16)
        net.train_task(
            name, batches(x, x[:, 0] % 2, 8), names(2), training=QUICK, pruning=LIGHT, when_full="reuse"
        )
        before.setdefault("a", net.task_logits(kept, "a"))
    assert torch.equal(net.task_logits(kept, "a"), before["a"])
