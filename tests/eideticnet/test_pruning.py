"""Pruning removes whole neurons, stops in time, and steps back once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import QUICK, names, task_data, task_loader, trained
from trunks import FEATURES, Mlp, Residual

from eideticnet import ConfigError, EideticNetwork, Pruning, batches
from eideticnet.block import Block
from eideticnet.models import mlp
from eideticnet.pruning import choose
from eideticnet.scores import importance
from eideticnet.training import Classify


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    score=st.sampled_from(["l1", "l2", "taylor"]),
    step=st.floats(0.01, 0.99),
    least=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_every_step_removes_at_least_one_neuron_and_never_goes_below_the_least_width(
    sizes, score, step, least, seed
):
    generator = torch.Generator().manual_seed(seed)
    scores = {f"g{i}": torch.rand(n, generator=generator) for i, n in enumerate(sizes)}
    keep = choose(scores, Pruning(score=score, step=step, min_width=least))
    if all(n <= least for n in sizes):
        assert keep is None
        return
    removed = {g: len(s) - len(keep[g]) for g, s in scores.items()}
    assert sum(removed.values()) >= 1
    for group, kept in keep.items():
        assert len(kept) >= min(least, len(scores[group]))
        assert kept.tolist() == sorted(set(kept.tolist()))
        gone = [i for i in range(len(scores[group])) if i not in set(kept.tolist())]
        if gone:
            assert scores[group][gone].max() <= scores[group][kept].min()


def test_weight_norms_take_the_same_share_of_every_group():
    keep = choose({"a": torch.arange(100.0), "b": torch.arange(50.0)}, Pruning(score="l1", step=0.1))
    assert (len(keep["a"]), len(keep["b"])) == (90, 45)


def test_taylor_ranks_over_the_whole_block():
    scores = {"a": torch.full((100,), 2.0), "b": torch.full((50,), 1.0)}
    keep = choose(scores, Pruning(score="taylor", step=0.1))
    assert (len(keep["a"]), len(keep["b"])) == (100, 35)


def test_shrinking_keeps_the_function_where_removed_neurons_did_nothing():
    net = EideticNetwork(Residual((12, 10)), torch.zeros(2, FEATURES))
    block = Block(net.program, "t0", (), {"t0": {**net.program.groups, "task_head": 3}}).double().eval()
    with torch.no_grad():
        for name in ("outer__0", "task_head"):
            dead = slice(6, None) if name == "outer__0" else slice(8, None)
            getattr(block.layers, name).weight[:, dead] = 0.0
        block.layers.inner__0.weight[:, 8:] = 0.0
    x = torch.randn(4, FEATURES, dtype=torch.float64)
    small = block.shrink({"stem": torch.arange(8), "inner.0": torch.arange(6)})
    assert small.own == {"stem": 8, "inner.0": 6}
    assert torch.allclose(small(x, {})["task_head"], block(x, {})["task_head"], atol=1e-12)


@pytest.mark.parametrize("score", ["l1", "l2", "taylor"])
def test_what_is_left_still_reaches_the_accuracy_less_the_threshold(score):
    events = []
    net = EideticNetwork(Mlp((24, 24)), torch.zeros(2, FEATURES))
    pruning = Pruning(score=score, step=0.2, threshold=0.05, recovery_epochs=2)
    net.train_task("a", task_loader(1, 3), names(3), pruning=pruning, training=QUICK, report=events.append)
    converged = max(e.accuracy for e in events if e.phase == "train")
    settled = max(e.accuracy for e in events if e.phase == "settle")
    assert settled >= converged - 0.05
    assert 2 <= sum(net.learned.block("t0").own.values()) < 48


def test_pruning_with_no_limit_ends_at_the_least_width():
    net = trained(1, router=False, pruning=Pruning(threshold=0.999, step=0.5, min_width=3))
    assert set(net.learned.block("t0").own.values()) == {3}


def test_the_earlier_tasks_neurons_are_never_candidates():
    net = trained(1)
    owned = net.learned.block("t0").own
    net.train_task(
        "more", task_loader(5), names(2), training=QUICK, pruning=Pruning(threshold=0.999, step=0.5)
    )
    assert net.learned.block("t0").own == owned
    assert set(net.learned.block("t1").own.values()) == {1}


@pytest.mark.parametrize(
    "wrong", [{"score": "l3"}, {"step": 0.0}, {"step": 1.0}, {"threshold": -0.1}, {"min_width": 0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        Pruning(**wrong)


def naive_scores(block, x, y, score):
    """Each neuron of a two-layer perceptron scored by itself, in loops."""
    first, second = block.layer("1"), block.layer("3")
    if score in ("l1", "l2"):
        order = 1 if score == "l1" else 2
        return {
            g: [float(row.detach().norm(order)) for row in m.weight] for g, m in (("1", first), ("3", second))
        }
    hidden = torch.relu(first(x)).detach().requires_grad_()
    features = torch.relu(second(hidden))
    features.retain_grad()
    torch.nn.functional.cross_entropy(block.layer("task_head")(features), y, reduction="sum").backward()
    found = {}
    for group, read in (("1", hidden), ("3", features)):
        value, gradient = read.detach(), read.grad
        sums = [
            sum(abs(float(value[i, j] * gradient[i, j])) for i in range(len(x)))
            for j in range(value.shape[1])
        ]
        norm = sum(s * s for s in sums) ** 0.5
        found[group] = [s / norm for s in sums]
    return found


@pytest.mark.parametrize("score", ["l1", "l2", "taylor"])
def test_scores_are_what_a_loop_over_neurons_computes(score):
    net = EideticNetwork(mlp(FEATURES, (5, 4)), torch.zeros(2, FEATURES))
    x, y = task_data(3, 3, 12)
    lesson = net._lesson("t", "t0", batches(x, y, 12), Classify(3), QUICK, lambda event: None)
    block = Block(net.program, "t0", (), {"t0": {"1": 5, "3": 4, "task_head": 3}})
    scores = importance(lesson, block, score)
    for group, expected in naive_scores(block, x, y, score).items():
        assert scores[group].tolist() == pytest.approx(expected, rel=1e-4)
