"""Ordinary trunks that look harmless: what is taken is right, what is refused says why."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eideticnet import UnsupportedError
from eideticnet.trace.tracing import trace
from tests.support.one_block import assert_one_block_is
from tests.support.small_trunks import Net


def lin(a=5, b=6):
    return nn.Linear(a, b)


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape))


def x3():
    return torch.randn(4, 6, 5)


def written(m, x):
    y = m.drop(m.a(x))
    y.relu_()
    return (y + m.b(y)).mean(1)


def under_view(m, x):
    h = m.a(x)
    h[:, 0].mul_(2)
    return h.mean(1)


def plus_equals(m, x):
    h = m.a(x)
    h[:, 1:] += 1
    return h.mean(1)


def dropout_alias(m, x):
    h = m.a(x)
    y = m.drop(h)
    y.relu_()
    return (h + m.b(y)).mean(1)


def two_shapes(m, x):
    return (m.a(x) * m.p.view(-1, 1)).mean(1) * m.p


def one_head(m, x):
    h = m.a(x)
    return m.mha(h, h, h)[0].mean(1)


REFUSED = {
    "attention with one head, which could have one owner": (
        one_head,
        {"a": lin(), "mha": nn.MultiheadAttention(6, 1, batch_first=True)},
        "mixes features; use heads",
    ),
    "a write through a view of a view": (under_view, {"a": lin()}, "view"),
    "a sum into a view": (plus_equals, {"a": lin()}, "view"),
    "a write through dropout that is off": (
        dropout_alias,
        {"a": lin(), "b": lin(6, 6), "drop": nn.Dropout(0.5)},
        "view",
    ),
    "one parameter in two shapes": (two_shapes, {"a": lin(), "p": parameter(6)}, "two shapes"),
    "more rows than were given": (lambda m, x: m.a(x.reshape(-1, 5)), {"a": lin()}, "rows"),
    "a padding mask": (
        lambda m, x: m.mha(m.a(x), m.a(x), m.a(x), key_padding_mask=x[..., 0].eq(3))[0].mean(1),
        {"a": lin(), "mha": nn.MultiheadAttention(6, 2, batch_first=True)},
        "attention is supported of one sequence",
    ),
    "numbers drawn in forward": (
        lambda m, x: (m.a(x) + torch.randn(6, 1)).mean(1),
        {"a": lin()},
        "no rule covers",
    ),
    "one head by letters": (
        lambda m, x: torch.einsum("bnd,bmd->bnm", m.a(x), m.a(x)).flatten(1),
        {"a": lin()},
        "mixes features; use heads",
    ),
    "every feature with every other": (
        lambda m, x: torch.einsum("bi,bj->bij", m.a(x)[:, 0], m.a(x)[:, 1]).flatten(1),
        {"a": lin()},
        "mixes features",
    ),
    "rows by letters": (
        lambda m, x: torch.einsum("bnd,bnd->nd", m.a(x), m.a(x)),
        {"a": lin()},
        "combines the rows of a batch",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_wrong_is_refused(kind):
    function, layers, words = REFUSED[kind]
    with pytest.raises(UnsupportedError, match=words):
        trace(Net(function, **layers), x3())


def causal(m, x):
    h = m.a(x)
    mask = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
    return m.mha(h, h, h, attn_mask=mask, is_causal=True)[0].mean(1)


TAKEN = {
    "in place on its own": (written, {"a": lin(), "b": lin(6, 6), "drop": nn.Dropout(0.5)}),
    "a causal mask": (causal, {"a": lin(), "mha": nn.MultiheadAttention(6, 2, batch_first=True)}),
    "chunks of positions": (
        lambda m, x: torch.cat(m.a(x).chunk(2, 1), 2).flatten(1),
        {"a": lin()},
    ),
    "a decoder's view": (
        lambda m, x: m.c(m.a(x.flatten(1)).view(x.shape[0], 8, 4, 4)).mean((2, 3)),
        {"a": lin(30, 128), "c": nn.Conv2d(8, 3, 3)},
    ),
    "a new dimension before the features": (
        lambda m, x: m.b(m.a(x.flatten(1)).view(x.shape[0], 1, 6)).flatten(1),
        {"a": lin(30, 6), "b": lin(6, 4)},
    ),
    "a class token repeated for each row": (
        lambda m, x: torch.cat([m.p.repeat(x.shape[0], 1, 1), m.a(x)], 1).mean(1),
        {"a": lin(), "p": parameter(1, 6)},
    ),
    "one minus": (lambda m, x: (1 - torch.sigmoid(m.a(x))).mean(1), {"a": lin()}),
    "slices of a parameter": (
        lambda m, x: (m.a(x) + m.p[:, : x.shape[1]]).mean(1),
        {"a": lin(), "p": parameter(1, 6, 6)},
    ),
    "rows made into positions": (
        lambda m, x: m.a(x.reshape(-1, 5)).view(x.shape[0], 6, 6).flatten(1),
        {"a": lin()},
    ),
    "a computed class token": (
        lambda m, x: torch.cat([torch.zeros(x.shape[0], 1, 6), m.a(x)], 1).mean(1),
        {"a": lin()},
    ),
    "a bottleneck of one neuron": (lambda m, x: m.b(m.a(x)).mean(1), {"a": lin(5, 1), "b": lin(1, 4)}),
    "a query that is not spread over the batch": (
        lambda m, x: (
            m.b(m.p).view(1, 2, 3, 2).transpose(1, 2) @ m.a(x).view(-1, 6, 3, 2).permute(0, 2, 3, 1)
        ).flatten(1),
        {"a": lin(), "b": lin(6, 6), "p": parameter(1, 2, 6)},
    ),
    "a squeeze of nothing": (lambda m, x: m.a(x).mean(1, keepdim=True).squeeze(1), {"a": lin()}),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_taken_is_computed_bit_for_bit(kind):
    function, layers = TAKEN[kind]
    assert_one_block_is(Net(function, **layers).eval(), x3())


def test_a_decoders_view_makes_channels_neurons():
    function, layers = TAKEN["a decoder's view"]
    assert trace(Net(function, **layers), x3()).groups == {"a": 8, "c": 3}


def test_what_one_layer_writes_is_a_neuron_unless_it_weighs_all_features():
    neuron, weight = (
        trace(Net(function, a=lin(), s=lin(6, 1), b=lin(1, 6)), x3())
        for function in (lambda m, x: m.b(m.s(m.a(x))).mean(1), lambda m, x: (m.s(m.a(x)) * m.a(x)).mean(1))
    )
    assert neuron.groups == {"a": 6, "s": 1, "b": 6}
    assert weight.groups == {"a": 6}
    assert [s.rule for s in weight.steps if s.layer == "s"] == ["weighting"]


def test_attention_keeps_its_dropout():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.5, batch_first=True)
    program = trace(nn.Sequential(nn.Linear(5, 8), layer, nn.Flatten()), x3())
    assert [s.options["p"] for s in program.steps if s.rule == "attention"] == [0.5]


def test_functional_layers_with_weights_of_others_are_refused():
    with pytest.raises(UnsupportedError, match=r"nn\.Linear"):
        trace(Net(lambda m, x: F.linear(m.a(x), m.b.weight).mean(1), a=lin(), b=lin(6, 6)), x3())
