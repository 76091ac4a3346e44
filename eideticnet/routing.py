"""From the logits of all heads and of the router to one answer for each input.

The router and the rule only choose the task: the label is always the argmax over the chosen
head's own logits. Written with tensor operations alone, so the same code runs eagerly and in an
exported graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eideticnet.errors import ConfigError
from eideticnet.names import expected, plain
from eideticnet.pruning import Pruning

RouterKind = Literal["linear", "block", "taps", "moments", "experts", "none"]
Auto = Literal["auto"]
Decision = Literal["hard", "joint", "entropy"]
Width = Literal["trunk", "free"]

PRUNED = Pruning(step=0.25, threshold=0.001, recovery_epochs=5)
"""How a router is pruned where nobody says it,"""
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
            if value not in known:
                raise ConfigError(f"{name} {value!r}: use {', '.join(known)}")
        if (self.router == "none") != (self.decision == "entropy"):
            raise ConfigError(
                f"router {self.router!r} with decision {self.decision!r}: entropy over the heads is "
                'what is left when the router is "none", and needs no other'
            )
        if self.pruning != "auto":
            expected("routing's pruning", self.pruning, Pruning, type(None))
        object.__setattr__(self, "false_rejections", plain(self.false_rejections))
        if not 0 <= self.false_rejections < 1:
            raise ConfigError(f"false_rejections {self.false_rejections}: use a share such as 0.01")

    @property
    def pruned(self) -> Pruning | None:
        """How the router's block is pruned, if it is."""
        return PRUNED if self.pruning == "auto" else self.pruning


@dataclass(frozen=True)
class FittedRouting:
    """The rule by which a network answers, as ``fit_router`` left it.

    ``temperature`` divides the router's log-probabilities (of ``entropy``: the heads' entropies);
    ``head_temperatures`` the logits of each task's head where the decision looks at them.
    ``threshold``: what a task's probability must reach to be answered where a call names none, so
    that ``false_rejections`` of the validation inputs are below. ``calibration_error``: expected
    calibration error of the task's probability there, before and after; both 0 if not calibrated.
    """

    router: RouterKind
    decision: Decision
    temperature: float = 1.0
    head_temperatures: tuple[float, ...] = ()
    threshold: float = 0.0
    false_rejections: float = 0.0
    calibration_error: tuple[float, float] = (0.0, 0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FittedRouting:
        lists = {k: tuple(data[k]) for k in ("head_temperatures", "calibration_error")}
        fitted = cls(**{**data, **lists})
        Routing(fitted.router, fitted.decision)  # refuses what this version does not know
        if fitted.router not in get_args(RouterKind):
            raise ConfigError(f"router {fitted.router!r} is none that can be fitted")
        return fitted


class Output(NamedTuple):
    """``task`` and ``label`` (N,) are indices, both -1 for "none of mine"; ``task_probs`` (N, T);
    ``label_probs`` and ``logits`` (N, C_max) are the chosen head's, zero past its own classes."""

    task: Tensor
    label: Tensor
    task_probs: Tensor
    label_probs: Tensor
    logits: Tensor


class RouteByLabel:
    """The router's objective: it learns the classes of all tasks, and answers with the task
    whose classes hold most of the probability. ``counts``: classes of each task."""

    def __init__(self, counts: Sequence[int], label_smoothing: float = 0.0) -> None:
        self.counts = list(counts)
        self.classes = sum(counts)
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        bounds = torch.tensor(self.counts, device=y.device).cumsum(0)
        task = torch.bucketize(y, bounds, right=True)
        return task_log_probabilities(logits, self.counts).argmax(1) == task


def task_log_probabilities(router_logits: Tensor, counts: Sequence[int]) -> Tensor:
    """(N, T): log of the softmax of ``router_logits`` (N, sum of counts), summed over each task."""
    by_task = F.log_softmax(router_logits, 1).split(list(counts), 1)
    return torch.stack([log_p.logsumexp(1) for log_p in by_task], 1)


def decide(
    fitted: FittedRouting,
    heads: Sequence[Tensor],
    router_logits: Tensor | None,
    temperature: float | None = None,
) -> Tensor:
    """Probability of each task, (N, T), whose greatest is the decision. ``heads``: T tensors
    (N, C_t); ``router_logits`` (N, sum of C_t), None where the router is "none";
    ``temperature`` instead of the fitted one."""
    temperature = fitted.temperature if temperature is None else temperature
    temperatures = fitted.head_temperatures or (1.0,) * len(heads)
    labels = [F.log_softmax(h / t, 1) for h, t in zip(heads, temperatures, strict=True)]
    if router_logits is None:
        scores = -torch.stack([_entropy(log_p) for log_p in labels], 1) / temperature
    else:
        counts = [head.shape[1] for head in heads]
        scores = task_log_probabilities(router_logits, counts) / temperature
    if fitted.decision == "joint":
        scores = scores + torch.stack([log_p.amax(1) for log_p in labels], 1)
    return F.softmax(scores, 1)


def _entropy(log_probs: Tensor) -> Tensor:
    """Entropy (N,) of ``log_probs`` (N, C), as a share of the greatest that C classes can have."""
    uniform = math.log(log_probs.shape[1])
    return -(log_probs.exp() * log_probs).sum(1) / uniform


def answer(heads: Sequence[Tensor], task_probs: Tensor, task: Tensor, threshold: Tensor) -> Output:
    """Choose a head for each row and read its answer.

    ``heads``: T tensors (N, C_t). ``task`` (N,) int64 pins a row to a task, -1 routes it.
    ``threshold`` (N,): a routed row whose best task has less probability is "none of mine".
    """
    widest = max(head.shape[1] for head in heads)
    padded = torch.stack([_pad(head, widest) for head in heads], 1)
    own = torch.tensor([[c < h.shape[1] for c in range(widest)] for h in heads], device=task.device)
    routed = task < 0
    chosen = torch.where(routed, task_probs.argmax(1), task)
    logits = padded.gather(1, chosen[:, None, None].expand(-1, 1, widest)).squeeze(1)
    masked = logits.masked_fill(~own[chosen], -torch.inf)
    unknown = routed & (task_probs.amax(1) < threshold)
    none = torch.full_like(task, -1)
    return Output(
        torch.where(unknown, none, chosen),
        torch.where(unknown, none, masked.argmax(1)),
        task_probs,
        F.softmax(masked, 1),
        logits,
    )


def _pad(logits: Tensor, width: int) -> Tensor:
    missing = width - logits.shape[1]
    return F.pad(logits, (0, missing)) if missing else logits
