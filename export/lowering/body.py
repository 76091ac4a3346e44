"""The body: what a network computes before it decides, as a module that every exporter takes.

A graph is a body and a tail. The body gives logits, one tensor for each head and one for the
router, and is what earlier tasks' digests are taken of. The tail (``tail.py``) decides and answers;
it is a function of ``bundle.json`` alone, so it can be built again and compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eideticnet import EideticNetwork, NotReadyError
from eideticnet.inputs import DTYPES
from eideticnet.program import HEAD

ROUTER = "router"


class Body(nn.Module):
    """Raw inputs ``x`` (N, *shape) to logits (N, C_t) of every revision of every task, in the order
    of learning, and the router's (N, sum of C_t) where there is one."""

    def __init__(self, net: EideticNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.logits(self.net.inputs.normalise(x))

    def logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """The same for normalised ``x``."""
        pieces = self.net.learned.pieces(x, self.net.learned.blocks)
        return tuple(pieces[owner][HEAD] for owner in owners(self.net))


def owners(net: EideticNetwork) -> list[str]:
    """Whose logits a body gives, in that order."""
    router = [ROUTER] if net.learned.router() is not None else []
    return [task.owner for task in net.learned.tasks] + router


def check(net: EideticNetwork) -> None:
    """``DamagedError`` if a frozen weight changed, ``NotReadyError`` if no router knows the present tasks."""
    net.verify()
    if net.learned.routing is None:
        raise NotReadyError(
            "the network has no router for its present tasks: eidetic train (or add-task), once "
            "more, goes on with a run that was interrupted; in Python, call fit_router"
        )


def body(net: EideticNetwork) -> Body:
    """The body of a network that was just checked."""
    check(net)
    return Body(net).eval()


@contextmanager
def evaluating(net: EideticNetwork) -> Iterator[None]:
    """The network in evaluation mode; afterwards in the mode that it was in."""
    training = net.training
    try:
        net.eval()
        yield
    finally:
        net.train(training)


def example(net: EideticNetwork, rows: int = 3) -> Tensor:
    """Raw inputs of the right shape and type, all zero."""
    return torch.zeros(rows, *net.inputs.shape, dtype=DTYPES[net.inputs.dtype])
