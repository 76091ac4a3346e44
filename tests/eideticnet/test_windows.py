"""Attention in windows, which lie among the rows: a mask for each window, again for each row of the batch; a
table of relative positions beside it, with a class token too."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eideticnet import UnsupportedError
from eideticnet.trace.tracing import trace
from tests.support.one_block import assert_one_block_is, assert_onnx_agrees
from tests.support.small_networks import assert_a_further_task_changes_no_bit

WIDTH, HEADS, SIDE, POSITIONS = 8, 2, 2, 4


def images(rows=5):
    """Colours (N, 16) of 4 x 4 points."""
    return torch.randint(0, 3, (rows, 16))


class Windows(nn.Module):
    """A layer of Swin on 4 x 4 tokens in four windows; ``spread`` makes the mask of all rows."""

    def __init__(self, spread):
        super().__init__()
        self.embed, self.spread = nn.Embedding(3, WIDTH), spread
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.table = nn.Parameter(torch.randn((2 * SIDE - 1) ** 2, HEADS))
        y, x = torch.arange(POSITIONS) // SIDE, torch.arange(POSITIONS) % SIDE
        apart = (y[:, None] - y + SIDE - 1) * (2 * SIDE - 1) + x[:, None] - x + SIDE - 1
        self.register_buffer("apart", apart)
        places = torch.arange(4)[:, None] * torch.arange(POSITIONS)
        self.register_buffer("mask", -5.0 * (places[:, None] > places[:, :, None] + 2))

    def bias(self) -> Tensor:
        return self.table[self.apart.view(-1)].view(POSITIONS, POSITIONS, -1).permute(2, 0, 1)[None]

    def forward(self, ids):
        n = ids.shape[0]
        h = self.embed(ids).view(n, 2, SIDE, 2, SIDE, WIDTH).transpose(2, 3).reshape(-1, POSITIONS, WIDTH)
        q, k, v = self.qkv(h).view(-1, POSITIONS, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        mask = self.spread(self.mask, n)
        mixed = F.scaled_dot_product_attention(q, k, v, self.bias() + mask).transpose(1, 2).flatten(2)
        return mixed.view(n, 4 * POSITIONS, WIDTH).mean(1)


class Classed(nn.Module):
    """BEiT's table, which has three numbers more for a class token, by indices that are written."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.table = nn.Parameter(torch.randn(31 + 3, HEADS))

    def bias(self) -> Tensor:
        table = torch.cat([self.table[:31].reshape(1, 31, -1).flatten(0, 1), self.table[31:]])
        places = torch.arange(15)
        index = torch.zeros(16, 16, dtype=torch.int64)
        index[1:, 1:] = places[:, None] - places + 15
        index[0, 0:], index[0:, 0], index[0, 0] = 31, 32, 33
        return table[index.view(-1)].view(16, 16, -1).permute(2, 0, 1)[None]

    def forward(self, ids):
        n = ids.shape[0]
        q, k, v = self.qkv(self.embed(ids)).view(n, 16, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        shown = torch.arange(16)[None, None, :, None].ge(0).expand(n, -1, 16, 16)
        return F.scaled_dot_product_attention(q, k, v, self.bias() + shown).transpose(1, 2).flatten(2)[:, 0]


def for_all_heads(mask, n):
    return mask[:, None][None].expand(n, -1, -1, -1, -1).reshape(-1, 1, POSITIONS, POSITIONS)


def for_each_head(mask, n):
    each = mask.view(1, 4, 1, POSITIONS, POSITIONS).expand(n, -1, HEADS, -1, -1)
    return each.reshape(-1, HEADS, POSITIONS, POSITIONS)


def again(mask, n):
    return mask[:, None].repeat(n, 1, 1, 1)


def in_another_order(mask, n):
    return mask[:, None, None].expand(-1, n, -1, -1, -1).reshape(-1, 1, POSITIONS, POSITIONS)


KINDS = {
    "a mask for all heads": lambda: Windows(for_all_heads),
    "a mask for each head": lambda: Windows(for_each_head),
    "a mask that is repeated": lambda: Windows(again),
    "a class token": Classed,
}


TWO = ("a mask for each head", "a class token")
kinds = pytest.mark.parametrize(
    "kinds", [pytest.param(TWO, id="two"), pytest.param(tuple(KINDS), id="all", marks=pytest.mark.slow)]
)


class All(nn.Module):
    """Several of them side by side."""

    def __init__(self, kinds):
        super().__init__()
        self.kinds = nn.ModuleList(KINDS[kind]() for kind in kinds)

    def forward(self, ids):
        return torch.cat([kind(ids) for kind in self.kinds], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_one_block_computes_the_plain_trunk_bit_for_bit(kind):
    torch.manual_seed(0)
    assert_one_block_is(KINDS[kind]().eval(), images())


@kinds
def test_they_are_exported_to_onnx(kinds):
    torch.manual_seed(0)
    assert_onnx_agrees(All(kinds), images)


@kinds
def test_a_further_task_changes_no_bit(kinds):
    torch.manual_seed(0)
    assert_a_further_task_changes_no_bit(All(kinds), images)


def test_masks_of_windows_in_another_order_than_the_rows_are_refused():
    with pytest.raises(UnsupportedError):
        trace(Windows(in_another_order), images())
