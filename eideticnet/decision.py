"""From the logits of all heads and of the router to one answer for each input.

The router and the rule only choose the task: the label is always the argmax over the chosen
head's own logits, unless tasks share one label space (``label_space.py``). Written with tensor
operations alone, so the same code runs eagerly and in an exported graph.
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

RouterKind = Literal["linear", "block", "taps", "moments", "experts", "none"]
Decision = Literal["hard", "joint", "entropy"]


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """``ConfigError`` if ``value`` is not ``known``."""
    if value not in known:
        raise ConfigError(f"{name} {value!r}: use {', '.join(known)}")


def check_pair(router: str, decision: str) -> None:
    """``ConfigError`` for a decision that this router does not allow."""
    if (router == "none") != (decision == "entropy"):
        raise ConfigError(
            f"router {router!r} with decision {decision!r}: entropy over the heads is "
            'what is left when the router is "none", and needs no other'
        )


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
        check_choice("router", fitted.router, get_args(RouterKind))
        check_choice("decision", fitted.decision, get_args(Decision))
        check_pair(fitted.router, fitted.decision)
        return fitted


class Output(NamedTuple):
    """``task`` and ``label`` (N,) are indices, both -1 for "none of mine"; ``task_probs`` (N, T);
    ``label_probs`` and ``logits`` (N, C_max) are the chosen head's, zero past its own classes.

    In a shared label space ``label`` is an index into ``net.classes``, of which ``label_probs`` (N, K)
    are the probabilities."""

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
    labels = label_log_probabilities(fitted, heads)
    scores = task_scores(fitted, labels, router_logits, temperature)
    if fitted.decision == "joint":
        scores = scores + torch.stack([log_p.amax(1) for log_p in labels], 1)
    return F.softmax(scores, 1)


def label_log_probabilities(fitted: FittedRouting, heads: Sequence[Tensor]) -> list[Tensor]:
    """Log of the probabilities (N, C_t) that each head gives its classes, as a decision looks at them."""
    temperatures = fitted.head_temperatures or (1.0,) * len(heads)
    return [F.log_softmax(h / t, 1) for h, t in zip(heads, temperatures, strict=True)]


def task_scores(
    fitted: FittedRouting,
    labels: Sequence[Tensor],
    router_logits: Tensor | None,
    temperature: float | None = None,
) -> Tensor:
    """The log-probability of each task (N, T), up to a number that is the same for all; without a router by
    the entropy of ``labels``, the heads' log-probabilities."""
    temperature = fitted.temperature if temperature is None else temperature
    if router_logits is None:
        return -torch.stack([_entropy(log_p) for log_p in labels], 1) / temperature
    return task_log_probabilities(router_logits, [log_p.shape[1] for log_p in labels]) / temperature


def _entropy(log_probs: Tensor) -> Tensor:
    """Entropy (N,) of ``log_probs`` (N, C), as a share of the greatest that C classes can have."""
    uniform = math.log(log_probs.shape[1])
    return -(log_probs.exp() * log_probs).sum(1) / uniform


def answer(heads: Sequence[Tensor], task_probs: Tensor, task: Tensor, threshold: Tensor) -> Output:
    """Choose a head for each row and read its answer.

    ``heads``: T tensors (N, C_t). ``task`` (N,) int64 pins a row to a task, -1 routes it.
    ``threshold`` (N,): a routed row whose best task has less probability is "none of mine".
    """
    grid, own = side_by_side(heads)
    routed = task < 0
    chosen = torch.where(routed, task_probs.argmax(1), task)
    logits, masked = read(grid, own, chosen)
    unknown = routed & (task_probs.amax(1) < threshold)
    none = torch.full_like(task, -1)
    return Output(
        torch.where(unknown, none, chosen),
        torch.where(unknown, none, masked.argmax(1)),
        task_probs,
        F.softmax(masked, 1),
        logits,
    )


def side_by_side(heads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What all heads say (N, T, C_max), zero past their own classes, and which are their own (T, C_max)."""
    widest = max(head.shape[1] for head in heads)
    padded = torch.stack([_pad(head, widest) for head in heads], 1)
    own = [[c < h.shape[1] for c in range(widest)] for h in heads]
    return padded, torch.tensor(own, device=padded.device)


def read(grid: Tensor, own: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (N, C_max) of the ``chosen`` (N,) heads, past their own classes zero, and minus infinity."""
    logits = grid.gather(1, chosen[:, None, None].expand(-1, 1, grid.shape[2])).squeeze(1)
    return logits, logits.masked_fill(~own[chosen], -torch.inf)


def _pad(logits: Tensor, width: int) -> Tensor:
    missing = width - logits.shape[1]
    return F.pad(logits, (0, missing)) if missing else logits
