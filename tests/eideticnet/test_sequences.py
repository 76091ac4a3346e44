"""Sequences: attention within a window, and a class token where the batch is the second dimension."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eideticnet import EideticNetwork, UnsupportedError, batches
from eideticnet.program import HEAD
from eideticnet.trace.tracing import trace
from tests.support.layer_zoo import tokens
from tests.support.masked_twin import masked_logits
from tests.support.one_block import assert_one_block_is
from tests.support.small_networks import LIGHT, QUICK, names

LENGTH, WIDTH, HEADS = 7, 12, 3
DOUBLE_ROUNDING = 1e-12
KINDS = [torch.bool, torch.float32]


def window(dtype, shown):
    """(S, S): each position and its neighbours; as booleans, ``shown`` is what lets them through."""
    where = torch.arange(LENGTH)
    near = (where[:, None] - where).abs() <= 1
    return near == shown if dtype == torch.bool else torch.zeros(near.shape).masked_fill(~near, -torch.inf)


class ByHand(nn.Module):
    """scaled_dot_product_attention with a mask (..., S, S) in a buffer."""

    def __init__(self, dtype, causal=False):
        super().__init__()
        self.embed, self.causal = nn.Embedding(11, WIDTH), causal
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("mask", window(dtype, shown=True))

    def forward(self, x):
        x = self.embed(x)
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal)
        return (x + self.out(y.transpose(1, 2).flatten(2))).mean(1)


class Encoder(nn.Module):
    """torch's encoder layer, given the mask and told whether to take it for the causal one."""

    def __init__(self, dtype, causal=False):
        super().__init__()
        self.embed, self.causal = nn.Embedding(11, WIDTH), causal
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)
        self.register_buffer("mask", window(dtype, shown=False))

    def forward(self, x):
        return self.layer(self.embed(x), self.mask, is_causal=self.causal).mean(1)


class TokenInFront(nn.Module):
    """A class token and positions before an encoder layer that wants (S, N, width)."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.embed, self.batch_first = nn.Embedding(11, WIDTH), batch_first
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.where = nn.Parameter(torch.randn(LENGTH + 1, 1, WIDTH))
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH)

    def forward(self, x):
        x = self.embed(x)
        if self.batch_first:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1).transpose(0, 1)
        else:
            x = torch.cat([self.token.expand(-1, x.shape[0], -1), x.transpose(0, 1)], 0)
        return self.layer(x + self.where)[0]


TAKEN = {
    **{f"{dtype} by hand": partial(ByHand, dtype) for dtype in KINDS},
    **{f"{dtype} in an encoder": partial(Encoder, dtype) for dtype in KINDS},
    **{f"{dtype} taken for the causal one": partial(Encoder, dtype, causal=True) for dtype in KINDS},
    "a token before the batch becomes the second dimension": TokenInFront,
}
REFUSED = {
    **{f"{dtype} beside is_causal": (partial(ByHand, dtype, causal=True), "one mask") for dtype in KINDS},
    "a token where the batch is second": (partial(TokenInFront, batch_first=False), "batch_first=True"),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_one_block_computes_the_plain_trunk_bit_for_bit(kind):
    torch.manual_seed(0)
    assert_one_block_is(TAKEN[kind]().eval(), tokens(5))


@pytest.mark.parametrize("kind", TAKEN)
def test_all_blocks_equal_their_masked_dense_twin(kind):
    torch.manual_seed(0)
    net = EideticNetwork(TAKEN[kind](), tokens(2), seed=1)
    for i in range(3):
        loader = batches(tokens(16), torch.arange(16) % 2, 8)
        net.train_task(f"task {i}", loader, names(2), training=QUICK, pruning=LIGHT, when_full="reuse")
    x = tokens(9)
    expected = masked_logits(net, TAKEN[kind], x)
    pieces = net.double().learned.pieces(x, net.learned.blocks)
    for owner, logits in expected.items():
        assert float((pieces[owner][HEAD] - logits).abs().max()) < DOUBLE_ROUNDING, owner


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_supported_is_refused_with_what_to_use(kind):
    trunk, words = REFUSED[kind]
    with pytest.raises(UnsupportedError, match=words):
        trace(trunk(), tokens())
