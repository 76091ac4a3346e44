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

from eideticnet.block import Block, attribute
from eideticnet.learn.training import Job, device_of
from eideticnet.moments import PREFIX, layer, renamed
from eideticnet.program import HEAD, Program
from eideticnet.route.calibration import best_temperature

SHARES = 10
"""The say is shared in tenths."""
ROWS = 10_000
"""The most validation rows that decide how."""
REACH = 10.0
"""The temperature of logits of spread 1 lies between a tenth and this. Validation data on which
nobody errs would have it at 0, where all weights look alike."""


@torch.no_grad()
def joined(trained: Block, closed: Block, validation: Job) -> Block:
    """The frozen product of ``trained``, whose head has taps, and ``closed``, which reads no other
    owner but the first task; both answer the classes of ``validation``, on whose data they are weighed."""
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
    program, group = _side_by_side(trained.program, closed)
    projection = closed.layers.get_submodule(attribute(_own_group(closed)))
    if closed.reads:  # a layer sees what its owner has there, which these features are not of
        (first,), kept = closed.reads, projection.state_dict()
        read = [program.features[name] for name in program.layers[group].inputs]
        parts = kept["weight"].split([of.columns(closed.widths[first]) for of in read], 1)
        own = [of.columns(trained.widths[trained.owner]) for of in read]
        padded = [F.pad(part, (0, count)) for part, count in zip(parts, own, strict=True)]
        projection = layer(torch.cat(padded, 1), kept["bias"])
    widths: dict[str, Mapping[str, int]] = {o: {**trained.widths[o], group: 0} for o in trained.reads}
    count = closed.own[_own_group(closed)]
    widths[trained.owner] = {**trained.widths[trained.owner], group: count}
    layers = {path: trained.layer(path) for path in trained.program.layers} | {group: projection}
    heads = [block.layers.get_submodule(HEAD).state_dict() for block in (trained, closed)]
    pairs = zip(heads, weights, strict=True)
    (w1, b1), (w2, b2) = ((head["weight"] * w, head["bias"] * w) for head, w in pairs)
    layers[HEAD] = layer(torch.cat([w1, w2], 1), b1 + b2)
    present = {path: made for path, made in layers.items() if made is not None}
    strangers = tuple(o for o in trained.reads if o not in closed.reads) if closed.reads else ()
    unread = trained.unread | ({group: strangers} if strangers else {})
    return Block(program, trained.owner, trained.reads, widths, present, unread)


def _own_group(closed: Block) -> str:
    """The neurons of ``closed``, called like the layer that makes them."""
    (group,) = (group for group, count in closed.own.items() if count)
    return group


def _side_by_side(trained: Program, closed: Block) -> tuple[Program, str]:
    """The steps of both, then one head with taps over what the two heads read; and the one group of
    ``closed`` by its new name."""
    *mine, head = trained.steps
    *others, other_head = closed.program.steps
    if closed.reads:
        others = others[len(mine) :]
    else:
        others, other_head = [renamed(step) for step in others], renamed(other_head)
    features = {step.name: step.features for step in others}
    dims = [*head.options["dims"], *(features[name].dim for name in other_head.inputs)]
    inputs = (*head.inputs, *other_head.inputs)
    options = {**head.options, "dims": dims}
    if "rows" in options:
        options["rows"] = [*options["rows"], *(1 for _ in other_head.inputs)]
    joint = replace(head, inputs=inputs, options=options)
    group = f"{PREFIX}{_own_group(closed).removeprefix(PREFIX)}"
    groups = {**trained.groups, group: closed.own[_own_group(closed)]}
    return Program((*mine, *others, joint), groups), group
