"""One layer that holds the layers of all blocks, for the rules where that is possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from eideticnet.block import Block
from eideticnet.pages.norms import PageNorm
from eideticnet.pages.places import Places
from eideticnet.program import HEAD, Features, Program, Step
from eideticnet.rules import RULES
from eideticnet.rules.norms import PrefixNorm

FUSED = frozenset(
    {
        *("linear", "conv", "conv_part", "grouped_conv", "embedding", "parameter", "learned", "buffer"),
        *("narrow", "choose", "batch_norm", "instance_norm", "group_norm", "prefix_norm"),
    }
)
"""Rules whose layers, one for each block, are together a wider layer of the same kind."""


def fusable(step: Step) -> bool:
    """Whether one run of ``step`` does for all owners. What has no weights treats each owner's columns
    alone, or is a statistic of those that it reads; weights on values of the raw input give every owner
    another one of these."""
    if step.layer is None:
        return not RULES[step.rule].reads_prefix
    return step.rule in FUSED and not step.features.raw


def fused(
    step: Step, blocks: Sequence[Block], pages: Sequence[Places], program: Program, most: int
) -> nn.Module:
    """The layers that ``blocks`` have for ``step`` as one, zero where a block does not read. The blocks are
    those of the last of ``pages``, in which ``most`` may lie; what they read lies in all of these, one beside
    the other."""
    rule, page = RULES[step.rule], pages[-1]
    read = program.features[step.inputs[0]] if step.inputs else Features()
    wide = int(step.options["raw_columns"]) if read.raw else sum(p.width(read) for p in pages)
    if step.rule == "prefix_norm":
        norms = [
            (own, _seen(step, block, pages, read), page.columns(step.features, block.owner))
            for block in blocks
            if isinstance(own := block.layer(str(step.layer)), PrefixNorm)
        ]
        like = blocks[0].layers.state_dict()[f"{HEAD}.weight"]
        return PageNorm(norms, wide, page.width(step.features), most).to(like)
    with torch.device("meta"):  # no random numbers drawn for weights to replace
        layer = rule.build(step, wide, page.width(step.features))
    assert layer is not None
    rule.settle(step, layer, program, page.whole)
    assert step.layer is not None
    state = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in layer.state_dict().items()}
    for block in blocks:
        own = block.layer(step.layer)
        if own is not None and page.has(step.features, block.owner):
            where = {"out": page.columns(step.features, block.owner), "in": list(range(wide))}
            if not read.raw:
                where["in"] = _seen(step, block, pages, read)
            for name, tensor in own.state_dict().items():
                axes = rule.axes_of(step, name)
                index = [where[a] if a else range(n) for a, n in zip(axes, tensor.shape, strict=False)]
                state[name] = state[name].to(tensor)
                state[name][tuple(map(torch.from_numpy, np.ix_(*index)))] = tensor
    layer.load_state_dict(state, assign=True)
    return layer.requires_grad_(False)


def _seen(step: Step, block: Block, pages: Sequence[Places], read: Features) -> list[int]:
    """Where the columns of ``read`` that a block's step sees lie in these pages, in the block's order."""
    seen = (*(block.read_in(step) if RULES[step.rule].reads_prefix else ()), block.owner)
    return [column for owner in seen for column in _columns(pages, read, owner)]


def _columns(pages: Sequence[Places], features: Features, owner: str) -> list[int]:
    """Where the owner's columns are in a value of these pages, one beside the other."""
    start = 0
    for page in pages:
        if owner in page.widths:
            return [start + column for column in page.columns(features, owner)]
        start += page.width(features)
    raise LookupError(owner)
