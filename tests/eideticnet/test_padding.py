"""Texts of different lengths: a trunk computes from its own input what is padded."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.example_counts import often
from tests.support.one_block import assert_one_block_is, assert_onnx_agrees
from tests.support.small_networks import assert_a_further_task_changes_no_bit

LENGTH, WIDTH, HEADS = 7, 8, 2


def texts(rows=5):
    """Token numbers; 0 is padding, at the end of each."""
    ids = torch.randint(1, 11, (rows, LENGTH))
    ends = torch.arange(rows) % (LENGTH - 2) + 2
    return ids.masked_fill(torch.arange(LENGTH) >= ends[:, None], 0)


def average(h, shown):
    shown = shown.unsqueeze(-1).to(h.dtype)
    return (h * shown).sum(1) / shown.sum(1).clamp(min=1)


class Encoder(nn.Module):
    """torch's own encoder, told by a mask what is padded; causal on top."""

    def __init__(self, causal=False):
        super().__init__()
        self.embed, self.causal = nn.Embedding(11, WIDTH, padding_idx=0), causal
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, ids):
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1) if self.causal else None
        h = self.encoder(self.embed(ids), mask, src_key_padding_mask=ids == 0, is_causal=self.causal)
        return average(h, ids != 0)


class Attention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself, or with a layer of its own for the question."""

    def __init__(self, asks=False):
        super().__init__()
        self.embed, self.mha = nn.Embedding(11, WIDTH), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ask = nn.Linear(WIDTH, WIDTH) if asks else nn.Identity()

    def forward(self, ids):
        h = self.embed(ids)
        asked = self.ask(h.mean(1, keepdim=True)) if isinstance(self.ask, nn.Linear) else h
        return self.mha(asked, h, h, key_padding_mask=ids.eq(0), need_weights=False)[0].sum(1)


class ByHand(nn.Module):
    """A mask of numbers that is added to the scores, as BERT has it, or filled in."""

    def __init__(self, filled):
        super().__init__()
        self.embed, self.filled = nn.Embedding(11, WIDTH), filled
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, ids):
        h, shown = self.embed(ids), (ids != 0)[:, None, None, :]
        q, k, v = (f(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if self.filled:
            scores = scores.masked_fill(~shown, -torch.inf)
        else:
            scores = scores + (1.0 - shown.to(scores.dtype)) * torch.finfo(torch.float32).min
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return average(out, ids != 0)


class Fused(ByHand):
    """The same with the fused operation."""

    def forward(self, ids):
        h = self.embed(ids)
        q, k, v = (f(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        shown = (
            (ids != 0)[:, None, None, :].expand(-1, -1, LENGTH, -1)
            if self.filled
            else (ids != 0)[:, None, None]
        )
        return average(F.scaled_dot_product_attention(q, k, v, shown).transpose(1, 2).flatten(2), ids != 0)


def bert(implementation):
    """Hugging Face's, which takes the mask as an argument."""
    from transformers import BertConfig, BertModel

    class Bert(nn.Module):
        def __init__(self):
            super().__init__()
            config = BertConfig(
                vocab_size=11,
                hidden_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=HEADS,
                intermediate_size=16,
                max_position_embeddings=32,
                attn_implementation=implementation,
            )
            self.model = BertModel(config, add_pooling_layer=False)

        def forward(self, ids):
            return self.model(ids, attention_mask=(ids != 0).long()).last_hidden_state[:, 0]

    return Bert()


KINDS = {
    "BERT": lambda: bert("sdpa"),
    "BERT by hand": lambda: bert("eager"),
    "torch's encoder": Encoder,
    "torch's encoder, causal too": lambda: Encoder(causal=True),
    "torch's attention": Attention,
    "attention with a question": lambda: Attention(asks=True),
    "a mask that is added": lambda: ByHand(filled=False),
    "a mask that is filled in": lambda: ByHand(filled=True),
    "the fused operation": lambda: Fused(filled=False),
    "the fused operation, expanded": lambda: Fused(filled=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_block_computes_the_plain_trunk_bit_for_bit(kind):
    torch.manual_seed(0)
    assert_one_block_is(KINDS[kind]().eval(), texts())


@pytest.mark.parametrize(
    "kind",
    often(
        ["torch's encoder", "a mask that is filled in", "BERT"],
        ["a mask that is filled in"],
    ),
)
def test_masks_are_exported_to_onnx(kind):
    torch.manual_seed(0)
    assert_onnx_agrees(KINDS[kind](), texts)


def test_a_further_task_changes_no_bit():
    torch.manual_seed(0)
    assert_a_further_task_changes_no_bit(Encoder(), texts)
