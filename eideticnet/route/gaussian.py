"""A router from no example at all: the Gaussian classifier with one covariance for all classes.

It follows in closed form from the sums that were kept of each task (``moments.py``): class means, and
products over all rows. So does how much the covariance is shrunk, and which of the random features are worth
their price.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from eideticnet.block import Block
from eideticnet.inputs import Inputs
from eideticnet.moments import Moments, layer, program_of
from eideticnet.program import HEAD
from eideticnet.route.options import SHRINKAGE

TRIED = tuple(10.0 ** (power / 2) for power in range(-12, 3))
"""Shrinkages among which one is found."""


def router_block(
    moments: Moments,
    owner: str,
    tasks: Sequence[str],
    inputs: Inputs,
    shrinkage: float = SHRINKAGE,
    first: Block | None = None,
) -> Block:
    """The classifier as an unfrozen block; it reads ``first``, the first task's, if the features are of its
    features, and no other.

    ``shrinkage``: the share of the mean variance that is added to every variance.

    Its logits are the log-likelihoods of the classes of ``tasks``, names in order, each class as
    likely as any other beforehand, up to a number that is the same for all.
    """
    means, within, _ = _statistics(moments, tasks)
    ridge = shrinkage * within.trace() / len(within)
    weight = torch.linalg.solve(within + ridge * torch.eye(len(within), dtype=torch.double), means.T).T
    bias = -0.5 * (weight * means).sum(1)
    if moments.of != "input":  # of which every version has given what is common to all classes, too
        weight, bias = weight - weight.mean(0), bias - bias.mean()
    program, group = program_of(moments, inputs, first)
    own = {**dict.fromkeys(program.groups, 0), group: len(moments.bias), HEAD: len(means)}
    layers = {group: layer(moments.weight, moments.bias), HEAD: layer(weight.float(), bias.float())}
    if moments.of != "first":
        return Block(program, owner, (), {owner: own}, layers)
    assert first is not None, "there is a first task"
    widths = {first.owner: {**first.widths[first.owner], group: 0}, owner: own}
    raw = [path for path, step in program.layers.items() if step.features.raw]
    layers |= {path: deepcopy(found) for path in raw if (found := first.layer(path)) is not None}
    return Block(program, owner, (first.owner,), widths, layers)


def _statistics(moments: Moments, tasks: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the classes of ``tasks``: means (C, D), the covariance within a class (D, D), and rows (C, 1)."""
    sums = torch.cat([moments.sums[task] for task in tasks])
    rows = sums[:, -1:].clamp_min(1.0)
    means = sums[:, :-1] / rows
    return means, (moments.products - (means * rows).T @ means) / rows.sum(), rows


def found_shrinkage(moments: Moments, tasks: Sequence[str]) -> float:
    """The shrinkage with the least generalised cross-validation error (Golub, Heath and Wahba 1979) of ridge
    regression on the classes, whose directions are the classifier's. It follows from the sums alone."""
    means, within, rows = _statistics(moments, tasks)
    count, unit = rows.sum(), within.trace() / len(within)
    share = rows / count
    centred = means - (share * means).sum(0)
    variances, axes = torch.linalg.eigh(within + (share * centred).T @ centred)
    variances, along = variances.clamp_min(0.0), ((share * centred) @ axes).square().sum(0)
    spread = (share * (1 - share)).sum()

    def error(shrinkage: float) -> float:
        ridged = variances + shrinkage * unit
        loss = spread - (along * (ridged + shrinkage * unit) / ridged.square()).sum()
        left = 1 - (1 + (variances / ridged).sum()) / count
        return float(loss / left.square()) if left > 1 / count else torch.inf

    return float(min(reversed(TRIED), key=error))


def without_least(moments: Moments, block: Block, share: float) -> Moments:
    """What would have been kept without that ``share`` of the projection's rows, at least one, that move the
    logits of ``block``, which follows from these, the least: by the square of a feature's centred weights
    times its variance."""
    rows = torch.cat([sums[:, -1] for sums in moments.sums.values()]).sum().clamp_min(1.0)
    mean = torch.stack([sums[:, :-1].sum(0) for sums in moments.sums.values()]).sum(0) / rows
    spread = (moments.products.diagonal() / rows - mean.square()).clamp_min(0.0).sqrt()
    head = block.layers.get_submodule(HEAD).get_parameter("weight").double()
    moved = ((head - head.mean(0)).norm(dim=0).detach() * spread).unflatten(0, (len(moments.bias), -1))
    least = moved.square().sum(1).argsort(stable=True)
    return moments.only(least[max(int(share * len(least)), 1) :].sort().values)
