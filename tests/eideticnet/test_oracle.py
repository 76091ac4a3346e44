"""Blocks compute what one masked dense network of the same numbers computes."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.example_counts import examples
from tests.support.masked_twin import masked_logits
from tests.support.small_networks import held_out, trained
from tests.support.small_trunks import TRUNKS, Functional, Mlp, Normalised, Residual

DOUBLE_ROUNDING = 1e-12


def differences(net, trunk, widths):
    """Largest |blocks - masked twin| over all heads, both in double precision."""
    x = held_out()
    expected = masked_logits(net, partial(trunk, widths), net.inputs.normalise(x))
    net.double()
    pieces = net.learned.pieces(net.inputs.normalise(x.double()), net.learned.blocks)
    return max(float((pieces[o]["task_head"] - e).abs().max()) for o, e in expected.items())


@pytest.mark.parametrize("trunk", [Mlp, Functional, Residual])
def test_blocks_equal_their_masked_dense_twin(trunk):
    assert differences(trained(3, (24, 20), trunk), trunk, (24, 20)) < DOUBLE_ROUNDING


@examples(3, 8)
@given(
    trunk=st.sampled_from([t for t in TRUNKS if t is not Normalised]),
    widths=st.lists(st.integers(8, 20), min_size=2, max_size=4),
    tasks=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_blocks_of_any_widths_equal_their_masked_dense_twin(trunk, widths, tasks, seed):
    net = trained(tasks, widths, trunk, seed=seed)
    assert differences(net, trunk, widths) < DOUBLE_ROUNDING


def test_a_norm_of_the_raw_input_and_a_layer_used_twice_equal_their_twin_for_one_owner():
    net = trained(1, (12, 10), Normalised, router=False)
    assert differences(net, Normalised, (12, 10)) < DOUBLE_ROUNDING


def test_the_oracle_notices_a_wrong_weight():
    net = trained(2)
    x = held_out()
    expected = masked_logits(net, partial(Mlp, (24, 20)), x)
    with torch.no_grad():
        net.learned.block("t1").layers.get_buffer("layers__4.weight").add_(0.01)
    pieces = net.double().learned.pieces(x.double(), net.learned.blocks)
    assert float((pieces["t1"]["task_head"] - expected["t1"]).abs().max()) > DOUBLE_ROUNDING
