"""No row of a batch may tell on another: what mixes rows is refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eideticnet import UnsupportedError
from eideticnet.trace.exported import exported
from eideticnet.trace.normal import as_named
from eideticnet.trace.selfcheck import check_rows
from eideticnet.trace.tracing import trace
from tests.support.small_trunks import Net, flat, images, lin, sequences


def over_rows(m, x):
    q, k, v = (f(x).view(-1, 2, 3).transpose(0, 1) for f in (m.a, m.b, m.c))
    return (torch.softmax(q @ k.transpose(1, 2), -1) @ v).transpose(0, 1).flatten(1)


def fused_over_rows(m, x):
    q, k, v = (f(x).view(-1, 2, 3).transpose(0, 1) for f in (m.a, m.b, m.c))
    return F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)


def masked_over_rows(m, x):
    q, k, v = (f(x).view(-1, 2, 3).transpose(0, 1) for f in (m.a, m.b, m.c))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)


def three():
    return {"a": lin(), "b": lin(), "c": lin()}


def attention(m, x):
    h = m.a(x)
    return m.mha(h, h, h)[0].mean(1)


def swapped_windows(m, x):
    h = m.a(x)
    return h.reshape(-1, 6).view(5, -1, 6).transpose(0, 1).mean(1)


MIXED = {
    "attention by hand over rows": (over_rows, three, flat),
    "attention over rows": (fused_over_rows, three, flat),
    "causal attention over rows": (masked_over_rows, three, flat),
    "rows times rows": (lambda m, x: (x @ x.t()) @ m.a(x), lambda: {"a": lin()}, flat),
    "features of rows times rows": (lambda m, x: m.a(x) @ m.a(x).t() @ x, lambda: {"a": lin()}, flat),
    "differences of rows": (
        lambda m, x: (lambda h: (h[:, None] - h[None]).abs().amax(1))(m.a(x)),
        lambda: {"a": lin()},
        flat,
    ),
    "distances of rows": (lambda m, x: torch.cdist(x, x) @ m.a(x), lambda: {"a": lin()}, flat),
    "a convolution over rows": (
        lambda m, x: m.a(m.c(x.unsqueeze(0)).mean(0)),
        lambda: {"a": lin(), "c": nn.Conv2d(1, 3, 3, padding=1)},
        flat,
    ),
    "a convolution of features over rows": (
        lambda m, x: m.c(m.a(x).t().unsqueeze(0)).squeeze(0).t(),
        lambda: {"a": lin(), "c": nn.Conv1d(6, 4, 3, padding=1)},
        flat,
    ),
    "a group norm over rows": (
        lambda m, x: m.n(m.a(x).t().unsqueeze(0)).squeeze(0).t(),
        lambda: {"a": lin(), "n": nn.GroupNorm(2, 6)},
        flat,
    ),
    "an instance norm over rows": (
        lambda m, x: m.n(m.a(x).t().unsqueeze(0)).squeeze(0).t(),
        lambda: {"a": lin(), "n": nn.InstanceNorm1d(6)},
        flat,
    ),
    "a group norm of one group over rows": (
        lambda m, x: m.n(m.a(x).t().unsqueeze(0)).squeeze(0).t(),
        lambda: {"a": lin(), "n": nn.GroupNorm(1, 6)},
        flat,
    ),
    "a pool over rows": (
        lambda m, x: F.avg_pool1d(m.a(x).t().unsqueeze(0), 3, 1, 1).squeeze(0).t(),
        lambda: {"a": lin()},
        flat,
    ),
    "a pool of the raw input over rows": (
        lambda m, x: m.a(F.max_pool1d(x.t(), 3, 1, 1).t()),
        lambda: {"a": lin()},
        flat,
    ),
    "a softmax over rows": (lambda m, x: torch.softmax(m.a(x), 0), lambda: {"a": lin()}, flat),
    "a softmax over rows that moved": (
        lambda m, x: torch.softmax(m.a(x).transpose(0, 1), 1).transpose(0, 1).mean(1),
        lambda: {"a": lin()},
        sequences,
    ),
    "a sequence that is the batch": (
        lambda m, x: m.g(m.a(x))[0].mean(1),
        lambda: {"a": lin(), "g": nn.GRU(6, 6)},
        sequences,
    ),
    "attention that is not batch_first": (
        attention,
        lambda: {"a": lin(), "mha": nn.MultiheadAttention(6, 2)},
        sequences,
    ),
    "encoder layers that are not batch_first": (
        lambda m, x: m.e(m.a(x)).mean(1),
        lambda: {"a": lin(), "e": nn.TransformerEncoderLayer(6, 2, 8)},
        sequences,
    ),
    "a causal sum over rows": (lambda m, x: m.a(x).cumsum(0), lambda: {"a": lin()}, flat),
    "rows turned around": (lambda m, x: m.a(x).flip(0), lambda: {"a": lin()}, flat),
    "rows moved on": (lambda m, x: m.a(x).roll(1, 0), lambda: {"a": lin()}, flat),
    "sorted rows": (lambda m, x: m.a(x.sort(0).values), lambda: {"a": lin()}, flat),
    "the mean of the batch taken off": (lambda m, x: m.a(x) - m.a(x).mean(0), lambda: {"a": lin()}, flat),
    "the mean of the raw batch taken off": (lambda m, x: m.a(x - x.mean(0)), lambda: {"a": lin()}, flat),
    "the first row taken off": (lambda m, x: m.a(x - x[0]), lambda: {"a": lin()}, flat),
    "a norm of the batch": (lambda m, x: m.a(x / x.std(0)), lambda: {"a": lin()}, flat),
    "the greatest number of the batch": (lambda m, x: m.a(x / x.max()), lambda: {"a": lin()}, flat),
    "whether a number is the greatest": (
        lambda m, x: m.a(x) * (x == x.max()).float(),
        lambda: {"a": lin()},
        flat,
    ),
    "the number of rows as a factor": (lambda m, x: m.a(x) / x.shape[0], lambda: {"a": lin()}, flat),
    "the place in the batch": (
        lambda m, x: m.a(x) + torch.arange(x.shape[0])[:, None],
        lambda: {"a": lin()},
        flat,
    ),
    "other rows chosen": (
        lambda m, x: m.a(x)[torch.arange(x.shape[0] - 1, -1, -1)],
        lambda: {"a": lin()},
        flat,
    ),
    "rows beside the next": (
        lambda m, x: m.a(torch.cat([x[1:], x[:1]])),
        lambda: {"a": lin()},
        flat,
    ),
    "a product contracted over rows": (
        lambda m, x: torch.einsum("nsf,nsg->sfg", m.a(x), m.b(x)).flatten(1),
        lambda: {"a": lin(), "b": lin()},
        sequences,
    ),
    "rows that became windows in the wrong order": (swapped_windows, lambda: {"a": lin()}, sequences),
    "images put side by side": (
        lambda m, x: m.c(x.transpose(0, 1).flatten(1, 2).unsqueeze(0)).mean(3).squeeze(0).t(),
        lambda: {"c": nn.Conv2d(2, 4, 3, padding=1)},
        images,
    ),
    "a layer norm over what is no feature": (
        lambda m, x: m.a(F.layer_norm(x, x.shape)),
        lambda: {"a": lin()},
        flat,
    ),
    "batch statistics": (
        lambda m, x: F.batch_norm(m.a(x), None, None, training=True),
        lambda: {"a": lin()},
        flat,
    ),
    "a normal form of the batch": (
        lambda m, x: F.normalize(m.a(x), dim=0),
        lambda: {"a": lin()},
        flat,
    ),
}


@pytest.mark.parametrize("kind", MIXED)
def test_a_trunk_that_mixes_rows_is_refused(kind):
    function, layers, data = MIXED[kind]
    with pytest.raises(UnsupportedError):
        trace(Net(function, **layers()), data())


@pytest.mark.parametrize("kind", MIXED)
def test_that_rows_are_mixed_shows_in_numbers_whatever_the_rules_say(kind):
    function, layers, data = MIXED[kind]
    named = as_named(Net(function, **layers()))
    try:
        graph = exported(named, data())
    except UnsupportedError:
        return  # no graph, no numbers
    tensors, rows = {**graph.constants, **named.state_dict()}, torch.cat([data(), data()])[:5]
    with torch.no_grad(), pytest.raises(UnsupportedError, match=r"row"):
        check_rows(graph, tensors, rows, 1e-4)


TAKEN = {
    "windows of rows, and rows again": lambda m, x: m.a(x).view(-1, 6).view(-1, 5, 6).mean(1),
    "rows in the middle": lambda m, x: m.a(x).permute(1, 0, 2).mean(0),
    "as many ones as rows": lambda m, x: m.a(x).mean(1) * torch.ones(x.shape[0], 1),
    "a view like another": lambda m, x: m.a(x).flatten(1).view_as(x).flatten(1),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_rows_that_only_move_are_not_taken_for_mixed(kind):
    named = as_named(Net(TAKEN[kind], a=lin()))
    graph = exported(named, sequences())
    rows = torch.randn(5, 5, 6)
    with torch.no_grad():
        check_rows(graph, {**graph.constants, **named.state_dict()}, rows, 1e-4)
