"""Networks on the trunks of the zoo, trained for a moment on random tasks."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor

from eideticnet import EideticNetwork, Routing, batches
from eideticnet.data.rows import Loader
from tests.support.layer_zoo import ZOO
from tests.support.small_networks import LIGHT, QUICK, names


def zoo_loader(kind: str, seed: int, classes: int = 2, rows: int = 24) -> Loader:
    """Random inputs of the right shape; labels that the first number of each tells."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = ZOO[kind][1](rows)
    y = x.flatten(1)[:, 0].argsort().argsort() * classes // rows
    return batches(x, y, 8)


def zoo_net(kind: str, tasks: int = 3, *, router: bool = True) -> EideticNetwork:
    """A network of ``tasks`` tasks on the trunk ``kind``; everyone gets a copy of it."""
    return copy.deepcopy(_zoo_net(kind, tasks, router))


@cache
def _zoo_net(kind: str, tasks: int, router: bool) -> EideticNetwork:
    if router:
        net = zoo_net(kind, tasks, router=False)
        fit(net, kind)
        return net
    if tasks:
        net = zoo_net(kind, tasks - 1, router=False)
        add(net, kind, tasks - 1)
        return net
    trunk, data = ZOO[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EideticNetwork(trunk(), data(2), seed=1)


def add(net: EideticNetwork, kind: str, number: int, **options: object) -> None:
    """Teach the network one more task."""
    options = {"training": QUICK, "pruning": LIGHT, "when_full": "reuse", **options}
    net.train_task(f"task {number}", zoo_loader(kind, number), names(2), **options)


def fit(net: EideticNetwork, kind: str) -> None:
    loaders = {t.name: zoo_loader(kind, i) for i, t in enumerate(net.tasks)}
    routing = Routing("block", "hard", LIGHT, width="free")  # a twin holds no more than the trunk does
    net.fit_router(loaders, training=QUICK, routing=routing, when_full="reuse")


def zoo_inputs(kind: str, rows: int = 9) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return ZOO[kind][1](rows)
