"""The router that is a product of two, and when it is the one that is fitted."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from eideticnet import DataError, EideticNetwork, Inputs, Journal, Routing, batches
from eideticnet.program import HEAD
from eideticnet.route.calibration import best_temperature
from eideticnet.route.experts import REACH, product, weigh
from tests.support.example_counts import examples
from tests.support.small_networks import QUICK, held_out, names, task_loader, trained
from tests.support.small_trunks import FEATURES, TRUNKS, Tokens

EXPERTS = Routing("experts")


def data(net, seed=0):
    return {t.name: task_loader(i + seed, len(t.classes)) for i, t in enumerate(net.tasks)}


def fitted(net, routing=EXPERTS, **options):
    given = {"loaders": data(net), "validation": data(net, 50), "training": QUICK, **options}
    net.fit_router(given.pop("loaders"), routing=routing, **given)
    return net


def same_router(first, second):
    return first.learned.routing_digest() == second.learned.routing_digest()


@cache
def halves(trunk):
    """What a network has learned, and both experts' blocks."""
    nets = [fitted(trained(3, router=False, trunk=trunk), Routing(kind)) for kind in ("taps", "moments")]
    return nets[0].learned, *(net.learned.router() for net in nets)


# -- the product ---------------------------------------------------------------------------


@examples(4, 20)
@given(
    trunk=st.sampled_from(TRUNKS),
    weights=st.tuples(st.floats(0, 3), st.floats(0, 3)),
    seed=st.integers(0, 1000),
)
def test_the_products_logits_are_always_the_weighted_sum_of_both(trunk, weights, seed):
    learned, trained_part, closed = halves(trunk)
    x = torch.randn(7, FEATURES, generator=torch.Generator().manual_seed(seed))
    earlier = {}
    for owner in learned.closure(*trained_part.reads):
        earlier[owner] = learned.block(owner)(x, earlier)
    block = product(trained_part, closed, weights).eval()
    both = [part(x, earlier)[HEAD] for part in (trained_part, closed)]
    expected = weights[0] * both[0] + weights[1] * both[1]
    assert torch.allclose(block(x, earlier)[HEAD], expected, rtol=1e-4, atol=1e-3)


rows = st.integers(5, 60)


@examples(12, 40)
@given(rows=rows, classes=st.integers(2, 6), seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_the_sum_is_never_less_likely_than_the_better_expert_however_that_is_calibrated(
    rows, classes, seed, scale
):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=generator)
    first, second = torch.randn(2, rows, classes, generator=generator)
    first, second = first + 2 * F.one_hot(y, classes), scale * second
    a, b = weigh(first, second, y)
    assert a >= 0
    assert b >= 0

    def unlikelihood(logits):
        spread = logits / logits.double().std().float()
        temperature = best_temperature(lambda t: F.cross_entropy(spread / t, y), REACH)
        return float(F.cross_entropy(spread / temperature, y))

    reached = float(F.cross_entropy(a * first + b * second, y))
    assert reached <= min(unlikelihood(first), unlikelihood(second)) + 1e-4


def test_an_expert_that_only_misleads_has_no_say():
    y = torch.arange(60) % 3
    right = 3.0 * F.one_hot(y, 3) + torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    wrong = 3.0 * F.one_hot((y + 1) % 3, 3)
    assert weigh(right, wrong, y)[1] == 0.0
    assert weigh(wrong, right, y)[0] == 0.0


def test_no_name_in_a_trunk_collides_with_the_experts():
    class Awkward(nn.Module):
        def __init__(self):
            super().__init__()
            self.random_features, self.flat = nn.Linear(FEATURES, 16), nn.Linear(16, 12)

        def forward(self, x):
            return self.flat(self.random_features(x.flatten(1)).relu()).relu()

    net = EideticNetwork(Awkward(), torch.zeros(2, FEATURES))
    for i in range(2):
        net.train_task(f"task {i}", task_loader(i), names(2), training=QUICK)
        net.widen(0.5)
    fitted(net)
    capacity = net.capacity()
    assert set(capacity) == {"random_features", "flat", "moments.random_features"}
    row = capacity["moments.random_features"]
    assert 0 < row.pop("router") < 1024
    assert row == {"total": 0, "task 0": 0, "task 1": 0, "free": 0}
    assert net(held_out()).task_probs.shape == (9, 2)


# -- what it is fitted from ----------------------------------------------------------------


def test_moments_of_loaders_give_the_router_that_kept_ones_give_and_are_not_kept(tmp_path):
    kept, fresh = (trained(3, router=False, **options) for options in ({"moments": 1024}, {}))
    for routing in (Routing("moments"), EXPERTS):
        assert same_router(fitted(kept, routing), fitted(fresh, routing))
    assert fresh.learned.moments is None
    fresh.save(tmp_path)
    assert not list(tmp_path.glob("moments-*"))


def test_with_memory_and_moments_the_newest_tasks_data_is_enough(tmp_path):
    trained(3, router=False, memory=8, moments=16).save(tmp_path)
    net = EideticNetwork.load(tmp_path)
    newest = {"task 2": task_loader(2)}
    fitted(net, Routing(), loaders=newest, validation={"task 2": task_loader(52)})
    assert net.learned.routing.router == "experts"
    assert net.learned.router().own["moments.random_features"] == 16


def test_an_interrupted_fit_goes_on_and_ends_with_the_same_bits(tmp_path):
    journal, whole = tmp_path / "journal", fitted(trained(2, router=False))

    def stop(event):
        if event.phase == "settle":
            raise KeyboardInterrupt

    net = trained(2, router=False)
    with pytest.raises(KeyboardInterrupt):
        fitted(net, journal=Journal(journal, interval=0.0), report=stop)
    assert net.learned.routing is None
    lines = []
    fitted(net, journal=Journal(journal, interval=0.0, say=lines.append))
    assert any("going on after" in line for line in lines)
    assert same_router(net, whole)


def test_experts_without_validation_data_or_moments_are_refused_before_anything_is_trained():
    net, events = trained(2, router=False, memory=8), []
    with pytest.raises(DataError, match="weighed on validation data"):
        net.fit_router(data(net), routing=EXPERTS, report=events.append)
    with pytest.raises(DataError, match=r"no moments were kept of \['task 0', 'task 1'\]"):
        fitted(net, loaders={}, report=events.append)
    assert events == []


def test_random_features_are_pruned_by_validation_data_and_what_is_left_is_as_if_alone():
    whole, pruned, asked = (trained(3, router=False, moments=64) for _ in range(3))
    fitted(whole, Routing("moments", pruning=None))
    fitted(pruned, Routing("moments"))
    fitted(asked, Routing("moments"), validation={})
    assert asked.learned.router().fingerprint == whole.learned.router().fingerprint
    left = pruned.learned.router().own["random_features"]
    assert left < whole.learned.router().own["random_features"] == 64
    assert len(pruned.learned.moments.bias) == 64, "what was kept of the tasks is not pruned"
    x = torch.cat([task_loader(50 + i, len(t.classes)).dataset.tensors[0] for i, t in enumerate(whole.tasks)])
    truth = torch.arange(3).repeat_interleave(48)
    found = [float((net(x).task == truth).double().mean()) for net in (whole, pruned)]
    assert found[1] >= found[0] - 0.02


# -- which router is fitted by default -----------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "with_data", "with_validation", "expected"),
    [
        ({}, True, True, "taps"),
        ({}, True, False, "taps"),
        ({"moments": 8}, True, True, "taps"),
        ({"memory": 8}, False, True, "taps"),
        ({"memory": 8, "moments": 8}, False, True, "experts"),
        ({"memory": 8, "moments": 8}, False, False, "taps"),
    ],
)
def test_by_default_experts_are_fitted_where_data_is_gone_and_they_can_be_weighed_and_else_taps(
    kept, with_data, with_validation, expected
):
    net = trained(2, router=False, **kept)
    validation = data(net, 50) if with_validation else {}
    fitted(net, Routing(), loaders=data(net) if with_data else {}, validation=validation)
    assert net.learned.routing.router == expected


@pytest.mark.parametrize("kind", ["whole numbers", "wide"])
def test_by_default_inputs_that_do_not_suit_random_features_get_taps(kind):
    if kind == "wide":
        x, trunk, inputs = torch.randn(20, 4097), nn.Linear(4097, 12), Inputs((4097,))
    else:
        x, trunk, inputs = torch.randint(10, (20, 3)), Tokens(), Inputs((3,), "int64", 0, 9)
    net = EideticNetwork(trunk, x[:2], inputs=inputs)
    loader = batches(x, torch.arange(20) % 2, 10)
    net.train_task("a", loader, names(2), training=QUICK, pruning=None, when_full="reuse")
    fit = {"validation": {"a": loader}, "training": QUICK, "when_full": "reuse"}
    net.fit_router({"a": loader}, **fit)
    assert net.learned.routing.router == "taps"
    if kind == "whole numbers":
        with pytest.raises(DataError, match="float32 inputs alone"):
            net.fit_router({"a": loader}, routing=EXPERTS, **fit)
        assert net.learned.routing.router == "taps"
