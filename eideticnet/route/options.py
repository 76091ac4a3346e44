"""How a network is to find an input's task, as its user asks for it."""

from __future__ import annotations

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
LEAST = 0.25
"""and to no less than this share of the trunk's neurons: smaller ones still know what they learned from, and
find fewer tasks on other data."""


@dataclass(frozen=True)
class Routing:
    """How a network is to find an input's task.

    ``router``: what tells the tasks apart. ``linear``: one layer on the features there are;
    ``block``: a block of free neurons; ``taps``: such a block whose head reads all layers and not
    the last alone; ``moments``: class means and covariance of random features, from no example at
    all; ``experts``: the product of the last two, weighed on validation data; ``none``: the heads
    alone, which is the ``entropy`` decision. ``auto``: ``taps``, but ``experts`` where a task's data
    is gone and ``fit_router`` gets validation data and every task's moments (kept, or from its
    loader) of float32 inputs of 4,096 numbers at most. The ``FittedRouting`` says which it was.
    ``decision``: the task that is likeliest for the router (``hard``), for router and head together
    (``joint``: task probability times the head's best label), or whose head is surest (``entropy``).
    ``pruning`` of the router's own neurons, which go when the next task comes; ``auto``: ``PRUNED``
    to ``LEAST``, None: they all stay.
    ``false_rejections``: the share of validation inputs that may be answered "none of mine".
    ``width``: how many neurons the router starts with: as many as the ``trunk`` has, beside it, or no
    more than are ``free`` in it. Neither takes capacity from a task to come.
    The defaults weigh accuracy against arithmetic on validation data, by the rule that ``make
    bench-routing`` states: of all that was tried, the cheapest within 0.1 points of the best.
    """

    router: RouterKind | Auto = "auto"
    decision: Decision = "joint"
    pruning: Pruning | Auto | None = "auto"
    false_rejections: float = 0.0
    width: Width = "trunk"

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
        if not 0 <= self.false_rejections < 1:
            raise ConfigError(f"false_rejections {self.false_rejections}: use a share such as 0.01")

    @property
    def pruned(self) -> Pruning | None:
        """How the router's block is pruned, if it is."""
        return PRUNED if self.pruning == "auto" else self.pruning
