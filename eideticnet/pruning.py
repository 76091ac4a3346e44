"""Pruning: find the smallest set of neurons that does a task without loss (paper, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from eideticnet.block import Block, Pieces
from eideticnet.columns import by_neuron
from eideticnet.errors import ConfigError
from eideticnet.program import HEAD, Features
from eideticnet.rules import RULES
from eideticnet.training import Event, Lesson, accuracy, device_of, recover

Score = Literal["l1", "l2", "taylor"]
Scores = dict[str, Tensor]
"""Importance of each own neuron, (n,), by feature group."""


@dataclass(frozen=True)
class Pruning:
    """``step``: share of the free neurons still left that goes in each iteration, at least one.
    ``threshold``: by how much, as a fraction of 1, the training accuracy may fall below what it
    was at convergence. ``min_width``: neurons that stay in every group."""

    score: Score = "l2"
    step: float = 0.1
    threshold: float = 0.01
    recovery_epochs: int = 5
    min_width: int = 1

    def __post_init__(self) -> None:
        if self.score not in ("l1", "l2", "taylor"):
            raise ConfigError(f"pruning score {self.score!r}: use l1, l2 or taylor")
        if not 0 < self.step < 1:
            raise ConfigError(f"pruning step {self.step}: use a share between 0 and 1")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"pruning threshold {self.threshold}: use a fraction of 1, such as 0.01")
        if self.recovery_epochs < 0 or self.min_width < 1:
            raise ConfigError("recovery_epochs must be at least 0 and min_width at least 1")


def prune(lesson: Lesson, block: Block, pruning: Pruning) -> Block:
    """Remove neurons step by step until accuracy can't be recovered, and step back once.

    ``block`` has converged; what is returned still reaches its accuracy less the threshold.
    """
    target = accuracy(lesson, block) - pruning.threshold
    for iteration in range(sum(block.own.values())):
        keep = choose(importance(lesson, block, pruning.score), pruning)
        if keep is None:
            break
        smaller = block.shrink(keep)
        reached = recover(lesson, smaller, f"prune {iteration}", target, pruning.recovery_epochs)
        lesson.report(Event(lesson.task, "prune", iteration, 0.0, reached, smaller.own))
        if reached < target:
            break
        block = smaller
    return block


def choose(scores: Scores, pruning: Pruning) -> dict[str, Tensor] | None:
    """Sorted indices of the neurons that stay in each group; None if none may go.

    Weight norms rank within each group and take the same share of each; Taylor ranks over the
    whole block.
    """
    spare = {g: max(len(s) - pruning.min_width, 0) for g, s in scores.items()}
    if not any(spare.values()):
        return None
    if pruning.score == "taylor":
        gone = _lowest_overall(scores, spare, pruning.step)
    else:
        gone = {g: min(max(int(len(s) * pruning.step), 1), spare[g]) for g, s in scores.items()}
    return {g: s.argsort(stable=True)[gone[g] :].sort().values for g, s in scores.items()}


def _lowest_overall(scores: Scores, spare: dict[str, int], step: float) -> dict[str, int]:
    """How many neurons go in each group if the lowest over all groups go first."""
    total = max(int(sum(len(s) for s in scores.values()) * step), 1)
    candidates = [(float(v), g) for g, s in scores.items() for v in s.sort().values[: spare[g]]]
    gone = dict.fromkeys(scores, 0)
    for _, group in sorted(candidates)[:total]:
        gone[group] += 1
    return gone


def importance(lesson: Lesson, block: Block, score: Score) -> Scores:
    """A score for each of the block's own neurons."""
    groups = [g for g, n in block.own.items() if n]
    if score == "taylor":
        return _taylor(lesson, block, groups)
    return {g: _weight_norm(block, g, 1 if score == "l1" else 2) for g in groups}


@torch.no_grad()
def _weight_norm(block: Block, group: str, order: int) -> Tensor:
    """Norm of each neuron's incoming weights, over all layers that make the group."""
    rows, widths = [], block.widths[block.owner]
    for path, step in block.program.layers.items():
        layer = block.layer(path)
        if layer is not None and RULES[step.rule].makes_neurons and path != HEAD:
            parts = by_neuron(step.features, widths, RULES[step.rule].incoming(layer))
            rows += [weights for name, weights in parts if name == group]
    norms: Tensor = torch.linalg.vector_norm(torch.cat(rows, 1), order, dim=1)
    return norms.cpu()


def _taylor(lesson: Lesson, block: Block, groups: list[str]) -> Scores:
    """|activation x gradient| of what each neuron hands to its readers, averaged over the data,
    divided by the group's L2 norm (Molchanov 2017, eq. 8)."""
    read = _values_read(block)
    totals = {g: torch.zeros(block.own[g]) for g in groups}
    captured: Pieces = {}
    hook = block.register_forward_hook(lambda module, args, pieces: captured.update(pieces))
    block.eval()
    try:
        for x, y in lesson.batches(device_of(block), "taylor"):
            loss = lesson.objective.loss(lesson.logits(block, x), y) * len(y)
            names = [name for name in read if name in captured]
            gradients = torch.autograd.grad(loss, [captured[n] for n in names], allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    _add(totals, block, block.program.features[name], captured[name] * gradient)
    finally:
        hook.remove()
    return {g: total / (total.norm() + torch.finfo(total.dtype).tiny) for g, total in totals.items()}


def _values_read(block: Block) -> list[str]:
    """Values with neurons that a mixing layer or the head reads."""
    program = block.program
    read = [n for s in program.steps if RULES[s.rule].reads_prefix for n in s.inputs]
    return [n for n in dict.fromkeys(read) if not program.features[n].raw]


def _add(totals: Scores, block: Block, features: Features, product: Tensor) -> None:
    """Add |mean over a neuron's positions| of ``product`` (N, ..., columns, ...), summed over
    examples, to the neuron's total."""
    product = product.detach().cpu().movedim(features.dim, 0)
    for group, mine in by_neuron(features, block.widths[block.owner], product):
        shape = len(mine), -1, product.shape[1], prod(product.shape[2:])
        totals[group] += mine.reshape(shape).mean((1, 3)).abs().sum(1)
