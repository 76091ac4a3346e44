"""From the logits of all heads and of the router to one answer for each input.

The router only chooses the task: the label is always the argmax over the chosen head's own
logits. Written with tensor operations alone, so the same code runs eagerly and in an exported
graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)
        self.classes = sum(counts)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        bounds = torch.tensor(self.counts, device=y.device).cumsum(0)
        task = torch.bucketize(y, bounds, right=True)
        return task_probabilities(logits, self.counts).argmax(1) == task


def task_probabilities(router_logits: Tensor, counts: Sequence[int]) -> Tensor:
    """(N, T): the softmax of ``router_logits`` (N, sum of counts), summed over each task."""
    by_task = F.softmax(router_logits, 1).split(list(counts), 1)
    return torch.stack([p.sum(1) for p in by_task], 1)


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
