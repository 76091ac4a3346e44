"""ShuffleNets, whose channels are shuffled between grouped convolutions or before they are split in two."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eideticnet import CapacityError, EideticNetwork, Routing, UnsupportedError, batches
from eideticnet.export.lowering.body import Body
from eideticnet.export.lowering.paged import dense
from eideticnet.export.proof.verify import verify
from eideticnet.program import HEAD
from eideticnet.trace.tracing import trace
from tests.support.archived_networks import archived
from tests.support.example_counts import examples, often
from tests.support.masked_twin import masked_logits
from tests.support.one_block import (
    assert_kept_columns_compute_what_they_did,
    assert_one_block_is,
    assert_onnx_agrees,
)
from tests.support.shuffled import KINDS, Shuffle1, Shuffle2, by_transpose, pixels
from tests.support.small_networks import LIGHT, QUICK, names
from tests.support.tolerances import EXPORTED

DOUBLE_ROUNDING = 1e-12
ONE_EPOCH = {"training": replace(QUICK, max_epochs=1), "pruning": replace(LIGHT, min_width=1)}


SLOW = {"v1, by unflatten", "v1, of lines", "v1, by channel_shuffle", "v2, by slices"}  # others do alike


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in KINDS])
def test_one_block_computes_a_shuffle_net_bit_for_bit(kind):
    torch.manual_seed(0)
    trunk, x = KINDS[kind]().eval(), pixels(5)
    program = trace(trunk, x)
    with torch.no_grad():
        assert torch.equal(assert_one_block_is(trunk, x, program), trunk(x))
    assert_kept_columns_compute_what_they_did(program, x)


class All(nn.Module):
    """Both of them side by side."""

    def __init__(self):
        super().__init__()
        self.kinds = nn.ModuleList([Shuffle1(2), Shuffle2()])

    def forward(self, x):
        return torch.cat([kind(x) for kind in self.kinds], 1)


@pytest.mark.parametrize("kind", often(["v1, 3 groups", "v2", "excited"], ["v2"]))
def test_shuffle_nets_are_exported_to_onnx(kind):
    torch.manual_seed(0)
    assert_onnx_agrees(KINDS[kind](), pixels)


def loader(seed):
    x, y = pixels(16 + seed), torch.arange(16 + seed) % 2
    return batches(x + y[:, None, None, None], y, 8)


def learned(make, tasks=3, **options):
    torch.manual_seed(0)
    net = EideticNetwork(make(), pixels(5))
    for i in range(tasks):
        net.train_task(f"task {i}", loader(i), names(2), **{"when_full": "reuse", **ONE_EPOCH, **options})
    return net


def test_a_shuffle_net_learns_tasks_grows_and_forgets_none(tmp_path):
    net, x = learned(All, 1), pixels(7)
    logits, digest = net.task_logits(x, "task 0"), net.digests()["task 0"]
    net.widen(0.5)
    net.train_task("task 1", loader(1), names(2), **{**ONE_EPOCH, "pruning": None})
    net.widen(0.5)
    net.train_task("alone", loader(2), names(2), **ONE_EPOCH, reads=[])
    loaders = {"task 0": loader(0), "task 1": loader(1), "alone": loader(2)}
    net.fit_router(loaders, training=ONE_EPOCH["training"], routing=Routing(pruning=ONE_EPOCH["pruning"]))
    assert torch.equal(net.task_logits(x, "task 0"), logits)
    assert net.digests()["task 0"] == digest
    net.save(tmp_path / "net")
    again = EideticNetwork.load(tmp_path / "net")
    assert torch.equal(again.task_logits(x, "task 0"), logits)
    assert torch.equal(again(x).task_probs, net(x).task_probs)
    with torch.no_grad():
        nested, fused = Body(net).eval()(x), dense(net).eval()(x)
    for ours, theirs in zip(fused, nested, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=EXPORTED)


@pytest.mark.slow
def test_versions_of_a_shuffle_net_are_proven(tmp_path):
    net = learned(All, 1)
    routing = {"training": ONE_EPOCH["training"], "routing": Routing(pruning=ONE_EPOCH["pruning"])}
    net.fit_router({"task 0": loader(0)}, **routing)
    old = archived(net, tmp_path / "old", "1.0")
    net.train_task("task 1", loader(1), names(2), **ONE_EPOCH)
    net.fit_router({"task 0": loader(0), "task 1": loader(1)}, **routing)
    assert verify(archived(net, tmp_path / "new", "2.0"), old).verdict == "proven"
    archived(net, tmp_path / "script", "2.0", format="torchscript")


@pytest.mark.parametrize(
    "kind", often(["v1, 3 groups", "v2", "v2, by rows", "excited"], ["v1, 3 groups", "v2", "excited"])
)
def test_blocks_of_a_shuffle_net_equal_their_masked_dense_twin(kind):
    net, x = learned(KINDS[kind]), pixels(4)
    expected = masked_logits(net, KINDS[kind], net.inputs.normalise(x))
    net.double()
    pieces = net.learned.pieces(net.inputs.normalise(x.double()), net.learned.blocks)
    assert max(float((pieces[o][HEAD] - e).abs().max()) for o, e in expected.items()) < DOUBLE_ROUNDING


def test_of_a_layer_that_is_cut_into_many_groups_a_task_need_not_own_each():
    net = learned(lambda: Shuffle1(8), 2, when_full="refuse")
    for owned in net.learned.owned().values():
        assert 0 in owned.values()
        for kin in net.program.kin:
            assert sum(owned[group] for group in kin) > 0


def test_a_shuffle_net_without_free_neurons_says_so():
    net = learned(Shuffle2, 1, pruning=None)
    with pytest.raises(CapacityError, match="no free neuron in"):
        net.train_task("another", loader(1), names(2), **ONE_EPOCH)
    net.train_task("another", loader(1), names(2), **ONE_EPOCH, when_full="reuse")


def test_planned_tasks_find_a_share_of_each_layer_of_a_shuffle_net():
    torch.manual_seed(0)
    net = EideticNetwork(Shuffle1(3), pixels(5), planned_tasks=2)
    for i in range(2):
        net.train_task(f"task {i}", loader(i), names(2), training=ONE_EPOCH["training"], pruning=None)
    for kin in net.program.kin:
        owned = [sum(own[group] for group in kin) for own in net.learned.owned().values()]
        assert max(owned) - min(owned) <= 2


class Composed(nn.Module):
    """Convolutions and whatever happens to their channels, in any order."""

    def __init__(self, operations):
        super().__init__()
        self.operations, width, layers = operations, 6, {}
        for i, (name, number) in enumerate(operations):
            if name == "layer":
                layers[str(i)] = nn.Conv2d(width, number + 2, 1)
                width = number + 2
            elif name == "beside":
                layers[str(i)] = nn.Conv2d(width, number + 1, 3, padding=1)
                width += number + 1
            elif name == "branch":
                half = width - width // 2
                layers[str(i)] = nn.Conv2d(half, half, 1)
            elif name == "weigh":
                layers[str(i)] = nn.Conv2d(width, width, 1)
            elif name == "deep":
                layers[str(i)] = nn.Conv2d(width, width, 3, padding=1, groups=width)
            elif name == "grouped" and width % 2 == 0:
                layers[str(i)] = nn.Conv2d(width, 2 * number + 2, 1, groups=2)
                width = 2 * number + 2
            elif name == "leave" and width > 4:
                width -= 2
            elif name == "every second":
                width -= width // 2
        self.first, self.layers = nn.Conv2d(3, 6, 3), nn.ModuleDict(layers)
        self.last = nn.Conv2d(width, 5, 1)

    def forward(self, x):
        x = self.first(x)
        for i, (name, number) in enumerate(self.operations):
            x = self.step(x, name, number, str(i))
        return self.last(x).mean((2, 3))

    def step(self, x, name, number, key):
        layer = self.layers[key] if key in self.layers else nn.Identity()
        width = x.shape[1]
        if name == "shuffle":
            parts = max(n for n in range(1, number + 2) if width % n == 0)
            return by_transpose(x, parts)
        if name == "beside":
            return torch.cat([layer(x), x], 1) if number % 2 else torch.cat([x, layer(x)], 1)
        if name == "branch":
            return torch.cat([x[:, : width // 2], layer(x[:, width // 2 :])], 1)
        if name == "weigh":
            return x * layer(x.mean((2, 3), keepdim=True)).sigmoid()
        if name == "leave" and width > 4:
            return x[:, 1 : width - 1]
        if name == "every second":
            return x[:, ::2]
        return layer(x)


NAMES = ["layer", "beside", "branch", "weigh", "deep", "grouped", "leave", "every second"]
STEPS = st.tuples(st.sampled_from(["shuffle", *NAMES]), st.integers(1, 5))


@examples(4, 24)
@given(st.lists(STEPS, min_size=2, max_size=7), st.integers(0, 100))
def test_whatever_happens_to_channels_in_any_order_is_computed_bit_for_bit_or_refused(steps, seed):
    torch.manual_seed(seed)
    trunk, x = Composed(steps).eval(), pixels(5)
    try:
        program = trace(trunk, x)
    except UnsupportedError:
        return
    assert_one_block_is(trunk, x, program)
    assert_kept_columns_compute_what_they_did(program, x)


def test_none_of_the_features_is_refused_by_name():
    trunk = Composed([("leave", 1), ("every second", 1)])
    trunk.step = lambda x, name, *_: (
        torch.cat([x[:, :0], x[:, ::2]], 1) if name == "every second" else x[:, 1:5]
    )
    with pytest.raises(UnsupportedError, match="takes none of the features"):
        trace(trunk, pixels(5))
