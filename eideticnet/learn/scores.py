"""Scores: how much each neuron matters for what its block has learned (paper, section 3)."""

from __future__ import annotations

from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor

from eideticnet.block import Block
from eideticnet.columns import by_neuron
from eideticnet.learn.training import Job, device_of
from eideticnet.program import HEAD, Features
from eideticnet.rules import RULES
from eideticnet.seeding import seeded

Score = Literal["l1", "l2", "taylor", "hybrid", "random"]
SCORES: tuple[Score, ...] = get_args(Score)
OVERALL: frozenset[Score] = frozenset({"taylor", "hybrid"})
"""Scores that rank the neurons of the whole block; the others rank within each group, and the
same share of each group goes, at least one neuron of each."""

Scores = dict[str, Tensor]
"""Importance of each own neuron, (n,), by feature group."""


def importance(job: Job, block: Block, score: Score) -> Scores:
    """A score for each of the block's own neurons; those of other owners are not looked at."""
    groups = [g for g, n in block.own.items() if n]
    if score == "random":
        return _random(job, block, groups)
    if score in ("l1", "l2"):
        return _weight_norms(block, groups, 1 if score == "l1" else 2)
    taylor = _taylor(job, block, groups)
    return taylor if score == "taylor" else _hybrid(block, taylor)


def _hybrid(block: Block, taylor: Scores) -> Scores:
    """1 - m / width: of a group as wide as the trunk makes it, m own neurons have as large a
    product of Taylor score and L2 norm of the incoming weights, or a larger one.

    Taylor's scores differ in size from layer to layer, so ranked over the block they empty one
    layer before they touch another. Of these, the lowest are always in the layer of which most
    is left, so all layers give the same share of their width, to within one neuron.
    """
    found, norms = {}, _weight_norms(block, list(taylor), 2)
    for group, score in taylor.items():
        product = score.double() * norms[group].double()
        rank = product.argsort(stable=True).argsort()
        found[group] = 1 - (len(rank) - rank).double() / block.program.groups[group]
    return found


def _random(job: Job, block: Block, groups: list[str]) -> Scores:
    """The baseline that every score has to beat; seeded, and drawn again at each width."""
    with seeded(*job.seed, "random scores", *block.own.values()):
        return {g: torch.rand(block.own[g]) for g in groups}


@torch.no_grad()
def _weight_norms(block: Block, groups: list[str], order: int) -> Scores:
    """Norm of each neuron's incoming weights, over all layers that make the group, by group."""
    rows: dict[str, list[Tensor]] = {group: [] for group in groups}
    widths = block.widths[block.owner]
    for path, step in block.program.layers.items():
        layer = block.layer(path)
        if layer is not None and RULES[step.rule].makes_neurons and path != HEAD:
            parts = by_neuron(step.features, widths, RULES[step.rule].incoming(layer))
            for group, weights in parts:
                rows.get(group, []).append(weights)
    return {g: torch.linalg.vector_norm(torch.cat(rows[g], 1), order, dim=1).cpu() for g in groups}


def _taylor(job: Job, block: Block, groups: list[str]) -> Scores:
    """|activation x gradient| of what each neuron hands to its readers, averaged over the data,
    divided by the group's L2 norm (Molchanov 2017, eq. 8)."""
    read = _values_read(block)
    totals = {g: torch.zeros(block.own[g]) for g in groups}
    captured: dict[str, Tensor] = {}

    def capture(name: str, value: Tensor) -> None:
        if name in read:
            captured[name] = value

    block.seen = capture
    frozen = [weight for weight in block.parameters() if not weight.requires_grad]
    block.eval().requires_grad_(True)
    try:
        for x, y in job.batches(device_of(block), "taylor"):
            loss = job.objective.loss(job.logits(block, x), y) * len(y)
            names = [name for name in read if name in captured]
            gradients = torch.autograd.grad(loss, [captured[n] for n in names], allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    _add(totals, block, block.program.features[name], captured[name].detach() * gradient)
            captured.clear()
    finally:
        block.seen = None
        for weight in frozen:
            weight.requires_grad_(False)
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
