"""One block that has taken over a plain trunk's weights is that trunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eideticnet.block import Block
from eideticnet.normal import as_named
from eideticnet.program import HEAD
from eideticnet.tracing import trace


@torch.no_grad()
def assert_one_block_is(plain: nn.Module, x: Tensor) -> Tensor:
    """The features (N, F) of such a block: bit for bit those of ``plain`` in normal form, and what
    ``plain`` itself computes up to rounding."""
    program = trace(plain, x)
    block = Block(program, "t0", (), {"t0": {**program.groups, HEAD: 2}}).eval()
    block.adopt(as_named(plain))
    features = block(x, {})[program.steps[-1].inputs[0]]
    assert torch.equal(features, as_named(plain)(x))
    assert torch.allclose(features, plain(x), rtol=0, atol=1e-6)
    return features
