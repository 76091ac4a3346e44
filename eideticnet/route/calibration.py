"""Calibration: probabilities that mean what they say, fitted on data that nothing was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from eideticnet.decision import FittedRouting, decide
from eideticnet.label_space import Labels, respond, share

BINS = 15
ROUNDING = 1e-5
"""By this share the same row's probability may differ in a batch of another size."""


def calibrate(
    fitted: FittedRouting,
    heads: Sequence[Tensor],
    router_logits: Tensor | None,
    task: Tensor,
    label: Tensor,
    false_rejections: float,
    labels: Labels | None = None,
) -> FittedRouting:
    """``fitted`` with temperatures and threshold for these validation outputs.

    ``heads``: T tensors (N, C_t); ``router_logits`` (N, sum of C_t); ``task`` and ``label`` (N,)
    are the truth. A head without validation data of its own keeps its temperature. What is calibrated is
    the task's probability, with ``labels`` of a shared space the class's.
    """
    votes = heads, router_logits, labels
    truth = task if labels is None else labels.numbered(task, label)
    before = _sureness(fitted, *votes, truth)
    if fitted.decision != "hard":
        own = [(head[task == t], label[task == t]) for t, head in enumerate(heads)]
        fitted = replace(fitted, head_temperatures=tuple(head_temperature(h, y) for h, y in own))

    def nll(temperature: float) -> Tensor:
        probs = (
            decide(fitted, heads, router_logits, temperature)
            if labels is None
            else share(fitted, heads, router_logits, labels, temperature).classes
        )
        return F.nll_loss(probs.clamp_min(1e-12).log(), truth)

    fitted = replace(fitted, temperature=best_temperature(nll))
    after = _sureness(fitted, *votes, truth)
    errors = expected_calibration_error(*before), expected_calibration_error(*after)
    threshold = threshold_for(after[0], false_rejections) * (1 - ROUNDING) if false_rejections else 0.0
    return replace(fitted, threshold=threshold, false_rejections=false_rejections, calibration_error=errors)


def _sureness(
    fitted: FittedRouting,
    heads: Sequence[Tensor],
    router_logits: Tensor | None,
    labels: Labels | None,
    truth: Tensor,
) -> tuple[Tensor, Tensor]:
    """How sure each answer is, and whether it is the ``truth``, a task or a class of ``labels``; all (N,)."""
    if labels is None:
        probs = decide(fitted, heads, router_logits)
        return probs.amax(1), probs.argmax(1) == truth
    route, always = torch.full_like(truth, -1), torch.zeros(len(truth))
    out = respond(fitted, heads, router_logits, route, always, labels)
    return labels.sure(out, fitted.decision), out.label == truth


def head_temperature(logits: Tensor, y: Tensor) -> float:
    """The temperature of one head, ``logits`` (N, C) for labels ``y`` (N,); 1 if there are none.

    Kept from 1/4 to 4: a head that errs on no validation row would be made colder for ever, until
    its probabilities are all 1 and tell nothing.
    """
    if not len(y):
        return 1.0
    return best_temperature(lambda temperature: F.cross_entropy(logits / temperature, y), 4.0)


def best_temperature(nll: Callable[[float], Tensor], most: float = 1000.0) -> float:
    """The temperature from 1 / ``most`` to ``most`` that minimises ``nll``, never one worse than 1.

    A search over a grid that is refined: the likelihood of a rule that is far too sure of itself is
    flat where it starts, so a gradient would lead nowhere.
    """
    best, reach = 1.0, math.log(most)
    for _ in range(3):
        grid = [best * math.exp(reach * i / 30) for i in range(-30, 31)]
        inside = [t for t in grid if 1 / most <= t <= most]
        best, reach = min(inside, key=lambda t: float(nll(t))), reach / 30
    return best


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Mean |confidence - share that is right| over equal bins of ``confidence`` (N,), weighted by
    how many rows are in each (Guo 2017, eq. 3); ``right`` bool (N,)."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.double)
    gaps.index_add_(0, place, confidence.double() - right.double())
    return float(gaps.abs().sum() / len(confidence))


def threshold_for(confidence: Tensor, false_rejections: float) -> float:
    """The greatest threshold that at most this share of ``confidence`` (N,) lies below."""
    ordered = confidence.sort().values
    return float(ordered[int(false_rejections * len(ordered))])
