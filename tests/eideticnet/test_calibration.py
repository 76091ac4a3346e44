"""Calibrated probabilities say how often they are right, and a threshold rejects what it promised."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import DataError, FittedRouting, Routing
from eideticnet.decision import decide
from eideticnet.route.calibration import (
    calibrate,
    expected_calibration_error,
    head_temperature,
    threshold_for,
)
from eideticnet.runs.evaluation import calibration_error
from tests.support.small_networks import QUICK, task_loader, trained


def overconfident(rows=2000, seed=0, factor=6.0):
    """Router logits for two tasks of two classes, ``factor`` times as sure as they should be."""
    generator = torch.Generator().manual_seed(seed)
    honest = 2 * torch.randn(rows, 4, generator=generator)
    y = torch.multinomial(honest.softmax(1), 1, generator=generator).squeeze(1)
    heads = [honest[:, :2], honest[:, 2:]]
    return heads, factor * honest, y // 2, y % 2


def nll(fitted, heads, router, task):
    return float(F.nll_loss(decide(fitted, heads, router).log().clamp_min(-50), task))


@pytest.mark.parametrize("decision", ["hard", "joint"])
def test_calibration_lowers_error_and_likelihood_of_an_overconfident_router(decision):
    heads, router, task, label = overconfident()
    bare = FittedRouting("block", decision)
    fitted = calibrate(bare, heads, router, task, label, 0.0)
    before, after = fitted.calibration_error
    assert after < before / 2
    assert nll(fitted, heads, router, task) < nll(bare, heads, router, task)
    assert fitted.temperature > 2
    held_out = overconfident(seed=1)
    probs = [decide(f, held_out[0], held_out[1]) for f in (bare, fitted)]
    errors = [expected_calibration_error(p.amax(1), p.argmax(1) == held_out[2]) for p in probs]
    assert errors[1] < errors[0] / 2


@given(factor=st.floats(0.05, 50), seed=st.integers(0, 1000))
def test_calibration_never_makes_the_likelihood_worse(factor, seed):
    heads, router, task, label = overconfident(100, seed, factor)
    bare = FittedRouting("block", "hard")
    fitted = calibrate(bare, heads, router, task, label, 0.0)
    assert nll(fitted, heads, router, task) <= nll(bare, heads, router, task) + 1e-6


@given(factor=st.floats(0.05, 50), seed=st.integers(0, 1000))
def test_calibration_never_changes_a_hard_decision(factor, seed):
    heads, router, task, label = overconfident(50, seed, factor)
    bare = FittedRouting("block", "hard")
    fitted = calibrate(bare, heads, router, task, label, 0.1)
    best = F.softmax(router, 1).reshape(-1, 2, 2).sum(2).topk(2, 1).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    choices = [decide(f, heads, router).argmax(1)[clear] for f in (bare, fitted)]
    assert torch.equal(*choices)


def test_a_head_that_is_never_wrong_is_not_made_ever_colder():
    logits = torch.tensor([[5.0, -5.0]]).repeat(20, 1)
    assert head_temperature(logits, torch.zeros(20, dtype=torch.long)) == pytest.approx(0.25)
    assert head_temperature(logits[:0], torch.zeros(0, dtype=torch.long)) == 1.0


def test_the_calibration_error_of_known_cases():
    right = torch.tensor([True, True, True, False])
    assert expected_calibration_error(torch.full((4,), 0.75), right) == pytest.approx(0)
    assert expected_calibration_error(torch.ones(4), right) == pytest.approx(0.25)
    mixed = torch.tensor([0.9, 0.9, 0.1, 0.1])
    assert expected_calibration_error(mixed, torch.tensor([True, True, False, False])) == pytest.approx(0.1)


@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    share=st.floats(0, 0.99),
)
def test_a_threshold_never_rejects_more_than_its_share_and_no_greater_one_would_do(values, share):
    confidence = torch.tensor(values)
    threshold = threshold_for(confidence, share)
    assert int((confidence < threshold).sum()) <= share * len(values)
    greater = torch.nextafter(torch.tensor(threshold), torch.tensor(2.0))
    assert int((confidence < greater).sum()) > share * len(values) - 1


def validation(net):
    return {t.name: task_loader(i + 50, len(t.classes)) for i, t in enumerate(net.tasks)}


def with_threshold(share):
    net = trained(3, router=False)
    loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
    routing = Routing(false_rejections=share)
    net.fit_router(loaders, routing=routing, validation=validation(net), training=QUICK)
    return net


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_networks_own_threshold_rejects_the_stated_share_of_validation_inputs(share, tmp_path):
    net = with_threshold(share)
    x = torch.cat([loader.dataset.tensors[0] for loader in validation(net).values()])
    rejected = float((net(x).task < 0).double().mean())
    assert share - 2 / len(x) <= rejected <= share
    assert (net(x, threshold=torch.zeros(len(x))).task >= 0).all()
    net.save(tmp_path)
    loaded = type(net).load(tmp_path)
    assert loaded.learned.routing == net.learned.routing
    assert torch.equal(loaded(x).task, net(x).task)


def test_without_a_stated_share_every_input_is_answered():
    assert trained(2).learned.routing.threshold == 0.0


def test_a_threshold_can_not_be_calibrated_from_nothing():
    net = trained(1)
    with pytest.raises(DataError, match="needs validation data"):
        net.fit_router({"task 0": task_loader(0)}, routing=Routing(false_rejections=0.1), training=QUICK)
    assert net.learned.routing.false_rejections == 0.0


def test_the_stored_error_is_the_one_that_evaluation_measures():
    net = with_threshold(0.1)
    _, after = net.learned.routing.calibration_error
    assert calibration_error(net, validation(net)) == pytest.approx(after, abs=1e-6)
