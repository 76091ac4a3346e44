"""A product of experts: a trained router, and the one that follows from moments, as one block.

The two err on different inputs: one is fitted to the boundaries between classes, the other to where
each class lies. Their logits are added, each with a weight that is fitted on validation data, and
since both are linear in what their heads read, so is the sum: one head over the features of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from eideticnet.block import Block
from eideticnet.learn.training import Job, device_of
from eideticnet.moments import linear
from eideticnet.program import HEAD, INPUT, Program, Step
from eideticnet.route.calibration import best_temperature

SHARES = 10
"""The say is shared in tenths."""
ROWS = 10_000
"""The most validation rows that decide how."""
REACH = 10.0
"""The temperature of logits of spread 1 lies between a tenth and this. Validation data on which
nobody errs would have it at 0, where all weights look alike."""
PREFIX = "moments."


@torch.no_grad()
def joined(trained: Block, closed: Block, validation: Job) -> Block:
    """The frozen product of ``trained``, whose head has taps, and ``closed``, which reads no other
    owner; both answer the classes of ``validation``, on whose data they are weighed."""
    rows = [
        (validation.logits(trained, x).cpu(), validation.logits(closed, x).cpu(), y.cpu())
        for x, y in validation.batches(device_of(trained), "experts")
    ]
    first, second, truth = (torch.cat(column)[:ROWS] for column in zip(*rows, strict=True))
    block = product(trained, closed, weigh(first, second, truth))
    block.freeze()
    return block


def weigh(first: Tensor, second: Tensor, y: Tensor) -> tuple[float, float]:
    """The weights of two experts' logits (N, C) under which their sum finds ``y`` (N,) likeliest.

    Scaled to equal spread, they share the say between them, all to one being possible, and one
    temperature divides the sum: so the sum is never less likely than the better one, calibrated.
    """
    spread = [float(logits.double().std().clamp_min(1e-12)) for logits in (first, second)]
    tried = []
    for share in (i / SHARES for i in range(SHARES + 1)):
        total = (1 - share) / spread[0] * first + share / spread[1] * second
        temperature = best_temperature(partial(_unlikelihood, total, y), REACH)
        tried.append((float(_unlikelihood(total, y, temperature)), share, temperature))
    _, share, temperature = min(tried)
    return (1 - share) / spread[0] / temperature, share / spread[1] / temperature


def _unlikelihood(logits: Tensor, y: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(logits / temperature, y)


def product(trained: Block, closed: Block, weights: tuple[float, float]) -> Block:
    """An unfrozen block whose logits are the sum of both blocks', so weighted."""
    program, group = _side_by_side(trained.program, closed.program)
    widths: dict[str, Mapping[str, int]] = {o: {**trained.widths[o], group: 0} for o in trained.reads}
    own = {f"{PREFIX}{g}": n for g, n in closed.own.items()}
    widths[trained.owner] = {**trained.widths[trained.owner], **own}
    layers = {path: trained.layer(path) for path in trained.program.layers}
    layers |= {f"{PREFIX}{path}": closed.layer(path) for path in closed.program.layers if path != HEAD}
    heads = [block.layers.get_submodule(HEAD).state_dict() for block in (trained, closed)]
    pairs = zip(heads, weights, strict=True)
    (w1, b1), (w2, b2) = ((head["weight"] * w, head["bias"] * w) for head, w in pairs)
    layers[HEAD] = linear(torch.cat([w1, w2], 1), b1 + b2)
    present = {path: layer for path, layer in layers.items() if layer is not None}
    return Block(program, trained.owner, trained.reads, widths, present, trained.unread)


def _side_by_side(trained: Program, closed: Program) -> tuple[Program, str]:
    """The steps of both, then one head with taps over what the two heads read; and the one group of
    ``closed`` by its new name."""
    *mine, head = trained.steps
    *others, other_head = map(_renamed, closed.steps)
    ((group, width),) = closed.groups.items()
    dims = [*head.options["dims"], *(closed.features[name].dim for name in closed.steps[-1].inputs)]
    inputs = (*head.inputs, *other_head.inputs)
    options = {**head.options, "dims": dims}
    if "rows" in options:
        options["rows"] = [*options["rows"], *(1 for _ in other_head.inputs)]
    joint = replace(head, inputs=inputs, options=options)
    group = f"{PREFIX}{group}"
    return Program((*mine, *others, joint), {**trained.groups, group: width}), group


def _renamed(step: Step) -> Step:
    """The step under names that no trunk's can be: those of its values have no dots."""
    runs = tuple(replace(run, group=f"{PREFIX}{run.group}") for run in step.features.runs)
    return replace(
        step,
        name=f"{PREFIX}{step.name}",
        inputs=tuple(name if name == INPUT else f"{PREFIX}{name}" for name in step.inputs),
        features=replace(step.features, runs=runs),
        layer=None if step.layer is None else f"{PREFIX}{step.layer}",
    )
