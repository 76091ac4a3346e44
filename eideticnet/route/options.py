"""How a network is to find an input's task, as its user asks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from eideticnet.decision import Decision, RouterKind, check_choice, check_pair
from eideticnet.errors import ConfigError
from eideticnet.learn.pruning import Pruning
from eideticnet.names import expected, plain

Auto = Literal["auto"]
Width = Literal["trunk", "free"]

PRUNED = Pruning(step=0.25, threshold=0.001, recovery_epochs=5)
"""How a router is pruned by default,"""
OF_MOMENTS = ("moments", "experts", "auto")
"""Routers that are made from them, or may be."""
SHRINKAGE = 0.01
"""Of a covariance by default: random features are nearly collinear."""
LEAST = 0.25
"""and to no less than this share of the trunk's neurons: smaller ones still know what they learned from, and
find fewer tasks on other data."""


@dataclass(frozen=True)
class Routing:
    """How a network is to find an input's task.

    Routers: one layer on the features there are (``linear``); a block of free neurons (``block``), whose head
    may read all layers and not the last alone (``taps``); class means and covariance of random features, from
    no example at all (``moments``); the product of the last two, weighed on validation data (``experts``);
    the heads alone, which is the ``entropy`` decision (``none``). ``auto`` is ``taps``, but ``experts`` where
    a task's data is gone and ``fit_router`` gets validation data and every task's moments (kept, or from its
    loader) of float32 inputs of 4,096 numbers at most. The ``FittedRouting`` says which it was.
    The defaults weigh accuracy against arithmetic on validation data, by the rule that ``make
    bench-routing`` states: of all that was tried, the cheapest within 0.1 points of the best.
    """

    router: RouterKind | Auto = "auto"
    """What finds the task."""
    decision: Decision = "joint"
    """By the likeliest task, by task and label together, or by the surest head (`entropy`)."""
    pruning: Pruning | Auto | None = "auto"
    """Of the router's own neurons, which go when the next task comes; None: they all stay."""
    false_rejections: float = 0.0
    """Share of validation inputs that may be answered "none of mine"."""
    width: Width = "trunk"
    """How many neurons the router starts with: as many as the trunk has, beside it, or those free in it."""
    shrinkage: float | Auto = SHRINKAGE
    """Of moments: share of the mean variance that is added to every one; `auto` finds it from the sums."""
    features: int | None = None
    """Of moments: about how many random features stay, chosen from the sums; without, all that were kept."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("router", self.router, (*get_args(RouterKind), *get_args(Auto))),
            ("decision", self.decision, get_args(Decision)),
            ("width", self.width, get_args(Width)),
        ):
            check_choice(name, value, known)
        check_pair(self.router, self.decision)
        if self.pruning != "auto":
            expected("routing's pruning", self.pruning, Pruning, type(None))
        object.__setattr__(self, "false_rejections", plain(self.false_rejections))
        shrinkage, features = plain(self.shrinkage), plain(self.features)
        if shrinkage != "auto" and not (type(shrinkage) in (int, float) and 0 < shrinkage < math.inf):
            raise ConfigError(f'shrinkage {shrinkage!r}: use a share above 0 such as 0.01, or "auto"')
        if features is not None and not (type(features) is int and features >= 1):
            raise ConfigError(f"features {features!r}: use a whole number from 1, or leave it out")
        unread = {"features": features is not None, "shrinkage": shrinkage != SHRINKAGE}
        for name in (name for name, given in unread.items() if given and self.router not in OF_MOMENTS):
            raise ConfigError(
                f"{name} is of routers of moments ({', '.join(OF_MOMENTS)}), and router {self.router!r} "
                f"reads none: leave {name} out, or choose one of these"
            )
        if isinstance(self.false_rejections, bool) or not 0 <= self.false_rejections < 1:
            raise ConfigError(f"false_rejections {self.false_rejections}: use a share such as 0.01")

    @property
    def router_pruning(self) -> Pruning | None:
        """How the router's block is pruned, if it is."""
        return PRUNED if self.pruning == "auto" else self.pruning
