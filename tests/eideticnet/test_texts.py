"""Texts as language models read them: positions counted past padding, causal masks made row by row, rotary
positions, keys that several heads share, the last token of each text."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eideticnet import UnsupportedError
from eideticnet.trace.tracing import trace
from tests.support.one_block import assert_one_block_is, assert_onnx_agrees
from tests.support.small_networks import assert_a_further_task_changes_no_bit

LENGTH, WIDTH, HEADS, PAD = 6, 16, 4, 1


def texts(rows=5):
    """Token numbers; 1 is padding, at the end of each."""
    ids = torch.randint(2, 11, (rows, LENGTH))
    ends = torch.arange(rows) % (LENGTH - 2) + 2
    return ids.masked_fill(torch.arange(LENGTH) >= ends[:, None], PAD)


class Counted(nn.Module):
    """RoBERTa's embeddings: positions counted without padding, types looked up in a buffer by them."""

    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Embedding(11, WIDTH, PAD), nn.Embedding(LENGTH + 2, WIDTH, PAD)
        self.kind = nn.Embedding(2, WIDTH)
        self.register_buffer("types", torch.arange(LENGTH + 2)[None] % 2)

    def forward(self, ids):
        shown = ids.ne(PAD).int()
        places = (shown.cumsum(1).type_as(shown) * shown).long() + PAD
        types = self.types.expand(ids.shape[0], -1).gather(1, places)
        return (self.token(ids) + self.kind(types) + self.place(places)).tanh().mean(1)


class Last(nn.Module):
    """What a recurrent layer says of the last token that is no padding."""

    def __init__(self, chosen):
        super().__init__()
        self.embed, self.chosen = nn.Embedding(11, WIDTH), chosen
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids):
        return self.chosen(self.layer(self.embed(ids)), ids.ne(PAD).sum(1) - 1)


LAST = {
    "by the number of the row": lambda h, last: h[torch.arange(h.shape[0]), last],
    "by the number of the row, some": lambda h, last: h[
        torch.arange(0, h.shape[0])[:, None], torch.stack([last, last // 2], 1)
    ].flatten(1),
    "by gather": lambda h, last: h.gather(1, last[:, None, None].expand(-1, -1, h.shape[2])).squeeze(1),
    "by gather, repeated": lambda h, last: h.gather(1, last[:, None, None].repeat(1, 1, WIDTH)).squeeze(1),
    "each neuron's first": lambda h, last: h.gather(1, h.argmax(1, keepdim=True)).squeeze(1),
    "the same of all": lambda h, last: h.gather(1, torch.zeros(h.shape, dtype=torch.int64))[:, 0],
}


def turned(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Norm(nn.Module):
    """RMSNorm as Llama has it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Decoder(nn.Module):
    """A layer of Llama: rotary positions, fewer keys than queries, a cache that is empty, a causal mask."""

    def __init__(self, attend):
        super().__init__()
        self.embed, self.norm, self.attend = nn.Embedding(11, WIDTH), Norm(), attend
        size = WIDTH // HEADS
        self.q, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, False)
        self.k, self.v = (nn.Linear(WIDTH, WIDTH // 2, False) for _ in range(2))
        self.register_buffer("speed", 1 / 100 ** (torch.arange(0, size, 2) / size))

    def mask(self, ids):
        """By rows, as Hugging Face's: which tokens belong to one text, and which come before."""
        rows, places = torch.arange(ids.shape[0])[:, None, None, None], torch.arange(LENGTH)
        of = places.expand(ids.shape[0], -1)
        text = (torch.diff(of, prepend=of[:, :1] - 1) != 1).cumsum(-1)
        asked, key = places[None, None, :, None], places[None, None, None, :]
        return (text[rows, asked] == text[rows, key]) & (of[rows, key] <= of[rows, asked])

    def forward(self, ids):
        h = self.embed(ids)
        angles = torch.arange(LENGTH)[:, None].float() * self.speed
        cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
        x = self.norm(h)
        q, k, v = (f(x).view(ids.shape[0], LENGTH, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = torch.cat([torch.tensor([]), turned(k, cos, sin)], -2), torch.cat([torch.tensor([]), v], -2)
        mixed = self.attend(turned(q, cos, sin), k, v, self.mask(ids))
        return (h + self.out(mixed.transpose(1, 2).flatten(2)))[:, -1]


def expanded(x):
    n, heads, length, size = x.shape
    return x[:, :, None].expand(n, heads, 2, length, size).reshape(n, heads * 2, length, size)


def by_hand(q, k, v, mask):
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return torch.where(mask, q @ k.mT / 2, -torch.inf).softmax(-1) @ v


class Biased(nn.Module):
    """Attention where each head has its query, key and value side by side, with a bias that is computed from
    a table of distances and expanded to the batch, as MPNet has it."""

    def __init__(self):
        super().__init__()
        self.embed, self.table = nn.Embedding(11, WIDTH), nn.Embedding(2 * LENGTH, HEADS)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, ids):
        n, places = ids.shape[0], torch.arange(LENGTH)
        qkv = self.qkv(self.embed(ids)).view(n, LENGTH, HEADS, 3, WIDTH // HEADS)
        q, k, v = (qkv[..., i, :].transpose(1, 2) for i in range(3))
        bias = self.table(places - places[:, None] + LENGTH).permute(2, 0, 1)[None]
        scores = q @ k.mT / 2 + bias.expand((n, -1, LENGTH, LENGTH)).contiguous()
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, LENGTH, -1).mean(1)


ATTEND = {
    "keys expanded": lambda q, k, v, mask: F.scaled_dot_product_attention(q, expanded(k), expanded(v), mask),
    "keys repeated": by_hand,
    "keys shared": lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True),
}
KINDS = {
    "positions counted": Counted,
    "a bias for each head": Biased,
    **{f"the last token {how}": lambda f=f: Last(f) for how, f in LAST.items()},
    **{how: lambda f=f: Decoder(f) for how, f in ATTEND.items()},
}


def pretrained(name, **settings):
    """One of Hugging Face's, told what is padded."""
    import transformers

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = {
                "vocab_size": 11,
                "hidden_size": WIDTH,
                "num_hidden_layers": 1,
                "num_attention_heads": HEADS,
                "intermediate_size": WIDTH,
                "max_position_embeddings": 32,
                "bos_token_id": None,
                "eos_token_id": None,
            }
            config = getattr(transformers, f"{name}Config")(**sizes, **settings)
            self.model = getattr(transformers, f"{name}Model")(config)

        def forward(self, ids):
            return self.model(ids, attention_mask=ids.ne(PAD).long()).last_hidden_state[:, 0]

    return Model()


FOREIGN = {
    "Llama": lambda: pretrained("Llama", num_key_value_heads=2),
    "RoBERTa": lambda: pretrained("Roberta"),
    "GPT-2": lambda: pretrained("GPT2"),
    "MPNet": lambda: pretrained("MPNet"),
    "Mistral": lambda: pretrained("Mistral", num_key_value_heads=2, sliding_window=4),
    "Qwen": lambda: pretrained("Qwen3", num_key_value_heads=2, head_dim=4),
}
SLOW = {"RoBERTa", "GPT-2", "MPNet", "Mistral", "Qwen"}  # what they do, those by hand do, too


@pytest.mark.parametrize(
    "kind", [*KINDS, *(pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in FOREIGN)]
)
def test_one_block_computes_the_plain_trunk_bit_for_bit(kind):
    torch.manual_seed(0)
    assert_one_block_is({**KINDS, **FOREIGN}[kind]().eval(), texts())


BESIDE = ("positions counted", "a bias for each head", "the last token by gather", "keys expanded")
"""One of each sort."""
MANY = tuple(kind for kind in KINDS if not kind.endswith(("some", "repeated")))
kinds = pytest.mark.parametrize(
    "kinds", [pytest.param(BESIDE, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]
)


class All(nn.Module):
    """Several kinds side by side."""

    def __init__(self, kinds):
        super().__init__()
        self.kinds = nn.ModuleList(KINDS[kind]() for kind in kinds)

    def forward(self, ids):
        return torch.cat([kind(ids) for kind in self.kinds], 1)


@kinds
def test_they_are_exported_to_onnx(kinds):
    torch.manual_seed(0)
    assert_onnx_agrees(All(kinds), texts)


@kinds
def test_a_further_task_changes_no_bit(kinds):
    torch.manual_seed(0)
    assert_a_further_task_changes_no_bit(All(kinds), texts)


REFUSED = {
    "another row's last": lambda h, last: h[torch.arange(h.shape[0]).flip(0), last],
    "what every row chooses": lambda h, last: h[:, last].mean(1),
    "the row that a row chooses": lambda h, last: h[last.clamp(max=0)].mean(1),
    "a row gathered": lambda h, last: h.mean(1).gather(0, (last * 0)[:, None].expand(-1, WIDTH)),
    "a neuron that a row chooses": lambda h, last: h[torch.arange(h.shape[0]), :, last],
    "a neuron gathered": lambda h, last: h.mean(1).gather(1, last[:, None].expand(-1, WIDTH)),
    "another for each neuron": lambda h, last: h.gather(
        1, (last[:, None, None] * torch.arange(WIDTH) % LENGTH)
    )[:, 0],
    "the first neurons": lambda h, last: h.gather(1, last[:, None, None].expand(-1, -1, 3))[:, 0],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_chooses_rows_or_neurons_is_refused(kind):
    with pytest.raises(UnsupportedError, match=r"batch|rows?\b|features?\b|fewer|computed"):
        trace(Last(REFUSED[kind]), texts())
