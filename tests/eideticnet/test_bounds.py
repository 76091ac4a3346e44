"""Bounds: no number of a value lies outside its interval, whatever the weights and the inputs."""

import math
import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eideticnet import Inputs
from eideticnet.block import Block
from eideticnet.bounds import bounded_free_slots, bounds_of, intervals
from eideticnet.bounds.interval import WEIGHT
from eideticnet.pages.laying import exact
from eideticnet.pages.passes import Paged
from eideticnet.program import HEAD
from eideticnet.rules import RULES
from eideticnet.trace.tracing import trace
from tests.support import ready_trunks, shuffled
from tests.support.example_counts import ALL, examples, often
from tests.support.layer_zoo import ZOO
from tests.support.operations import BY_HAND, KINDS, images, of, tokens
from tests.support.small_trunks import Net, lin


def in_windows(h):
    """Windows of nine of its positions, to each of which something else is added."""
    added = torch.arange(36.0).view(1, 4, 9, 1).expand(h.shape[0], -1, -1, -1).reshape(-1, 9, 1)
    return (tokens(h).reshape(-1, 9, 8) + added).view(h.shape[0], 36, 8)


MORE = {
    "windows": of(in_windows),
    "chosen by each neuron": of(lambda h: h.gather(3, h.sort(3)[1]) + h.gather(2, h.argmax(2, True))),
    "repeated neurons": of(lambda h: h.repeat_interleave(2, 1)),
    "a part that is not taught": of(lambda h: h + h.detach().tanh()),
    "a constant for each neuron": of(lambda h: h + torch.linspace(-9, 9, 8).view(8, 1, 1)),
    "thresholds": of(
        lambda h: h.clamp(-0.1, 0.1) + F.hardshrink(h, 0.3) + (h > 0.7) * h + F.threshold(h, -0.3, 5)
    ),
    "scaled sums": of(
        lambda h: h.add(h.sin(), alpha=0.3) + h.sub(h.cos(), alpha=-2) + h.addcmul(h, h, value=0.1)
    ),
    "logarithms of shares": of(lambda h: h.log_softmax(2) + h.logsumexp(3, keepdim=True)),
    "masks and counts": of(
        lambda h: (
            h
            + (h > 0).cumsum(2) / 7
            + (h < 1).float().mean(3, True)
            + h.any(2, True)
            + h.diff(2, 3).amax(3, True)
        )
    ),
    "whole numbers": of(lambda h: (h.detach() // 0.3) + h.div(h.abs() + 1, rounding_mode="trunc") + h % -0.7),
}
TRUNKS = {
    **ZOO,
    **{kind: (make, images) for kind, make in {**KINDS, **BY_HAND, **MORE}.items()},
    **{
        f"ready {kind}": (make, lambda rows, kind=kind: ready_trunks.inputs(kind, rows))
        for kind, make in ready_trunks.SMALL.items()
    },
    **{f"shuffled {kind}": (make, shuffled.pixels) for kind, make in shuffled.KINDS.items()},
}
UNBOUNDED = {"of two", "a square of numbers by hand"}
"""Kinds that may divide by zero."""
PROGRAMS = {}


def program_of(kind):
    if kind not in PROGRAMS:
        torch.manual_seed(0)
        trunk, data = TRUNKS[kind]
        PROGRAMS[kind] = trace(trunk(), data(3))
    return PROGRAMS[kind]


def contract(x, low=-2.0, high=3.0):
    if x.is_floating_point():
        return Inputs(tuple(x.shape[1:]), low=low, high=high)
    return Inputs(tuple(x.shape[1:]), "int64", low=0, high=10)


def two_blocks(program, scale=1.0, spread=0.0, seed=0):
    """Two blocks that share the neurons, the second reads the first; their weights are ``scale`` times random
    ones, some of them up to 10 ** spread times that."""
    torch.manual_seed(seed)
    half = {group: n - n // 2 for group, n in program.groups.items()}
    rest = {group: n // 2 for group, n in program.groups.items()}
    widths = {"t0": {**half, HEAD: 2}, "t1": {**rest, HEAD: 3}}
    blocks = [Block(program, "t0", (), widths), Block(program, "t1", ("t0",), widths)]
    for tensor in (t for block in blocks for t in (*block.parameters(), *block.buffers())):
        if tensor.is_floating_point():
            tensor.data *= scale * 10 ** (spread * torch.rand_like(tensor))
    for block in blocks:
        block.freeze()
    return blocks


def inputs_of(inputs, kind):
    """Random inputs of the contract, and its corners."""
    x = TRUNKS[kind][1](6)
    if not x.is_floating_point():
        return x
    x = x.clamp(inputs.low, inputs.high)
    x[1], x[2] = inputs.low, inputs.high
    x[3] = torch.where(torch.rand_like(x[3]) < 0.5, torch.tensor(inputs.low), torch.tensor(inputs.high))
    return x


@torch.no_grad()
def assert_within(found, blocks, inputs, x):
    """Everything that the blocks with bounds give for each row of ``x``."""
    for row in x.split(1):
        pieces = {}
        for block in blocks:
            own = pieces[block.owner] = block(inputs.normalise(row), pieces)
            if block.owner in found:
                assert own.keys() == found[block.owner].keys()
                for name, value in own.items():
                    low, high = found[block.owner][name].low, found[block.owner][name].high
                    assert value.shape == low.shape == high.shape
                    assert bool(((low <= value) & (value <= high)).all()), name
                    assert bool(value.isfinite().all())


OFTEN = {
    *("separable", "grouped", "layer norms", "gru", "fused attention", "windows", "whole numbers"),
    *("arithmetic", "and more", "a square of numbers by hand", "deviations", "ready resnet18", "shuffled v2"),
}


KINDS_TRIED = sorted(TRUNKS if os.environ.get("HYPOTHESIS_PROFILE") == ALL else OFTEN)


@pytest.mark.slow
def test_every_row_of_the_table_is_bounded_in_some_trunk():
    met = {step.rule for kind in TRUNKS.keys() - UNBOUNDED for step in program_of(kind).steps}
    assert RULES.keys() - met <= {"taps", "training"}


@pytest.mark.parametrize("kind", often(TRUNKS, OFTEN))
def test_no_value_lies_outside_its_interval(kind):
    blocks, x = two_blocks(program_of(kind)), TRUNKS[kind][1](2)
    inputs = contract(x)
    found = bounds_of(blocks, inputs)
    assert (not found) == (kind in UNBOUNDED)
    assert_within(found, blocks, inputs, inputs_of(inputs, kind))


@examples(40, 1500)
@given(
    kind=st.sampled_from(KINDS_TRIED),
    scale=st.floats(-6, 12),
    spread=st.floats(0, 6),
    low=st.floats(-1e6, 1e6, width=32),
    width=st.floats(0, 1e6, width=32),
    seed=st.integers(0, 9),
)
def test_whatever_weights_are_values_lie_within_and_are_finite(kind, scale, spread, low, width, seed):
    blocks = two_blocks(program_of(kind), 10**scale, spread, seed)
    inputs = contract(TRUNKS[kind][1](2), low, low + width)
    assert_within(bounds_of(blocks, inputs), blocks, inputs, inputs_of(inputs, kind))


EDGES = ["ready mlp", "residual", "dense", "grouped", "ready vit_tiny", "layer norms", "rnn"]


@pytest.mark.parametrize("kind", often(EDGES, ["ready mlp", "dense", "ready vit_tiny", "layer norms"]))
def test_at_the_edge_of_the_limit_all_numbers_are_still_finite_also_in_one_page(kind):
    inputs, scale = contract(TRUNKS[kind][1](2)), 1.0
    while bounds_of(two_blocks(program_of(kind), 2 * scale), inputs):
        scale *= 2
    assert 1 < scale < WEIGHT
    blocks, x = two_blocks(program_of(kind), scale), inputs_of(inputs, kind)
    found = bounds_of(blocks, inputs)
    assert_within(found, blocks, inputs, x)
    with torch.no_grad():
        logits = Paged(program_of(kind), blocks, [exact(blocks)])(inputs.normalise(x))
    for owner, bounds in found.items():
        assert bool(((bounds[HEAD].low <= logits[owner]) & (logits[owner] <= bounds[HEAD].high)).all())


def between(function):
    """The program of two layers, and of a function of what the first one gives."""
    torch.manual_seed(0)
    return trace(Net(lambda m, x: m.b(function(m.a(x))), a=lin(), b=lin()), torch.rand(3, 6))


NOWHERE_AT_ZERO = {
    "log": torch.log,
    "reciprocal": torch.reciprocal,
    "rsqrt": torch.rsqrt,
    "logit": torch.logit,
    "a quotient": lambda h: h / h,
    "a power": lambda h: h**-2,
    "a remainder": lambda h: 3 * torch.ones_like(h) % h,
}


@pytest.mark.parametrize("kind", NOWHERE_AT_ZERO)
def test_what_has_no_value_at_zero_is_found_in_blocks_and_in_free_slots(kind):
    program, inputs = between(NOWHERE_AT_ZERO[kind]), Inputs((6,), low=0, high=1)
    assert not bounds_of(two_blocks(program), inputs)
    assert not bounded_free_slots(program, inputs)


def test_what_is_finite_where_all_is_zero_but_not_everywhere_may_have_free_slots():
    program, inputs = between(lambda h: (h + 1).log()), Inputs((6,), low=0, high=1)
    assert not bounds_of(two_blocks(program), inputs)
    assert bounded_free_slots(program, inputs)


@pytest.mark.parametrize("kind", often(TRUNKS, OFTEN))
def test_neurons_of_nobody_are_finite_unless_they_are_refused(kind):
    x = TRUNKS[kind][1](3)
    assert bounded_free_slots(program_of(kind), contract(x)) == (kind not in {"a square of numbers by hand"})


@pytest.mark.parametrize("open_end", [{"low": 0}, {"high": 1}, {}])
def test_inputs_without_a_range_have_no_bounds_but_tokens_have_those_of_their_rows(open_end):
    program = between(torch.relu)
    assert not bounds_of(two_blocks(program), Inputs((6,), **open_end))
    assert not bounded_free_slots(program, Inputs((6,), **open_end))
    assert bounds_of(two_blocks(program_of("lstm")), Inputs((7,), "int64", **open_end)).keys() == {"t0", "t1"}


def test_who_reads_an_owner_without_bounds_has_none():
    program, inputs = between(torch.relu), Inputs((6,), low=0, high=1)
    first, second = two_blocks(program)
    assert intervals(second, inputs, {}) is None
    assert intervals(second, inputs, {"t0": intervals(first, inputs, {})}) is not None


@pytest.mark.parametrize("number", [math.nan, math.inf, 2 * WEIGHT])
def test_a_weight_that_is_no_number_or_huge_has_no_bounds(number):
    program, inputs = between(lambda h: 0 * h), Inputs((6,), low=0, high=1)
    block, _ = two_blocks(program)
    assert intervals(block, inputs, {}) is not None
    block.layer("a").bias[2] = number
    assert intervals(block, inputs, {}) is None


SEEN = torch.ones(7, 7).tril().bool()
HIDDEN = torch.zeros(7, 7).masked_fill(~SEEN, -math.inf)
MASKS = {
    "a large number": (lambda s, x: s.masked_fill((x == 0)[:, None, None], -1e9), True),
    "infinities": (lambda s, x: s.masked_fill(~SEEN, -math.inf), True),
    "infinities that are added": (lambda s, x: s + HIDDEN, True),
    "infinities that are chosen": (lambda s, x: torch.where(SEEN, s, -math.inf), True),
    "the least number": (lambda s, x: s + HIDDEN.clamp_min(torch.finfo().min), True),
    "infinities, maybe everywhere": (lambda s, x: s.masked_fill((x == 0)[:, None, None], -math.inf), False),
    "infinities that are taken for numbers": (lambda s, x: s.masked_fill(~SEEN, -math.inf) / 2, False),
}


class Masked(nn.Module):
    """Attention by hand of two heads, whose scores a function masks."""

    def __init__(self, mask):
        super().__init__()
        self.embed, self.qkv, self.mask = nn.Embedding(11, 8), nn.Linear(8, 24), mask

    def forward(self, x):
        parts = self.qkv(self.embed(x)).chunk(3, -1)
        q, k, v = (part.view(x.shape[0], 7, 2, 4).transpose(1, 2) for part in parts)
        return (self.mask(q @ k.mT, x).softmax(-1) @ v).transpose(1, 2).flatten(2).mean(1)


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_may_hide_by_infinities_as_long_as_something_is_seen_for_sure(kind):
    torch.manual_seed(0)
    mask, bounded = MASKS[kind]
    x = torch.randint(1, 11, (4, 7))
    blocks, inputs = two_blocks(trace(Masked(mask), x)), contract(x)
    assert len(bounds_of(blocks, inputs)) == 2 * bounded
    x[0] = 0
    pieces = {"t0": blocks[0](x, {})}
    assert bool(blocks[1](x, pieces)[HEAD].isfinite().all()) == (kind != "infinities, maybe everywhere")
