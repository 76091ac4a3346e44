"""Every kind of layer: one block is the plain trunk, all blocks are its masked twin, bits never change."""

import pytest
import torch

from eideticnet import EideticNetwork
from eideticnet.program import HEAD
from tests.support.layer_zoo import REPEATED, ZOO
from tests.support.masked_twin import masked_logits
from tests.support.one_block import assert_one_block_is
from tests.support.zoo_networks import add, fit, zoo_inputs, zoo_net

DOUBLE_ROUNDING = 1e-12
RARE = {*REPEATED, "rnn", "fused attention", "convolutions", "conv1d"}


def often(rare):
    return [pytest.param(kind, marks=pytest.mark.slow) if kind in rare else kind for kind in ZOO]


RAW_LAYERS = {"layer norms"}  # every owner has its own norm of the raw input, the dense twin has one


@pytest.mark.parametrize("kind", often(REPEATED))
def test_one_block_computes_the_plain_trunk_bit_for_bit(kind):
    trunk, data = ZOO[kind]
    torch.manual_seed(0)
    assert_one_block_is(trunk().eval(), data(5))


@pytest.mark.parametrize("kind", often(REPEATED))
def test_all_blocks_equal_their_masked_dense_twin(kind):
    net = zoo_net(kind, tasks=1 if kind in RAW_LAYERS else 3, router=kind not in RAW_LAYERS)
    x = zoo_inputs(kind)
    expected = masked_logits(net, ZOO[kind][0], x)
    net.double()
    x = x.double() if x.is_floating_point() else x
    pieces = net.learned.pieces(x, net.learned.blocks)
    for owner, logits in expected.items():
        assert float((pieces[owner][HEAD] - logits).abs().max()) < DOUBLE_ROUNDING, owner


@pytest.mark.parametrize("kind", often(RARE))
def test_a_further_task_changes_no_bit_of_the_earlier_ones(kind):
    net, x = zoo_net(kind, 2), zoo_inputs(kind)
    before = {t.name: net.task_logits(x, t.name) for t in net.tasks}
    digests = net.digests()
    add(net, kind, 2, pruning=None)
    fit(net, kind)
    add(net, kind, 3)
    for name, logits in before.items():
        assert torch.equal(net.task_logits(x, name), logits)
        assert net.digests()[name] == digests[name]


@pytest.mark.parametrize("kind", often(RARE))
def test_every_owner_has_neurons_in_every_group_and_nobody_owns_too_many(kind):
    net = zoo_net(kind, 3)
    for group, row in net.capacity().items():
        assert row["free"] >= 0, group
        assert row["task 0"] >= 1, group


@pytest.mark.parametrize("kind", often(RARE))
def test_a_network_of_any_layers_survives_saving(kind, tmp_path):
    net, x = zoo_net(kind, 2), zoo_inputs(kind)
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert loaded.digests() == net.digests()
    assert all(torch.equal(a, b) for a, b in zip(net(x), loaded(x), strict=True))
