"""Pruning removes whole neurons, stops in time, and steps back once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import ConfigError, EideticNetwork, Pruning, Training, batches
from eideticnet.block import Block
from eideticnet.learn.pruning import choose_neurons
from eideticnet.learn.scores import OVERALL, SCORES, importance
from eideticnet.learn.training import Classify
from eideticnet.models import mlp
from eideticnet.seeding import seeded
from tests.support.example_counts import examples
from tests.support.small_networks import QUICK, names, task_data, task_loader, trained, untrained
from tests.support.small_trunks import FEATURES, Residual


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    overall=st.booleans(),
    share=st.floats(0.01, 0.99),
    least=st.lists(st.integers(1, 45), min_size=4, max_size=4),
    seed=st.integers(0, 100),
)
def test_every_step_removes_at_least_one_neuron_and_never_goes_below_the_least_width(
    sizes, overall, share, least, seed
):
    generator = torch.Generator().manual_seed(seed)
    scores = {f"g{i}": torch.randint(4, (n,), generator=generator) / 3 for i, n in enumerate(sizes)}
    least = dict(zip(scores, least, strict=False))
    keep = choose_neurons(scores, share, least, overall)
    if all(len(s) <= least[g] for g, s in scores.items()):
        assert keep is None
        return
    removed = {g: len(s) - len(keep[g]) for g, s in scores.items()}
    assert sum(removed.values()) >= 1
    for group, kept in keep.items():
        assert len(kept) >= min(least[group], len(scores[group]))
        assert kept.tolist() == sorted(set(kept.tolist()))
        gone = [i for i in range(len(scores[group])) if i not in set(kept.tolist())]
        if gone:
            assert scores[group][gone].max() <= scores[group][kept].min()


ONE = {"a": 1, "b": 1}


def test_weight_norms_take_the_same_share_of_every_group():
    keep = choose_neurons({"a": torch.arange(100.0), "b": torch.arange(50.0)}, 0.1, ONE, overall=False)
    assert (len(keep["a"]), len(keep["b"])) == (90, 45)


def test_taylor_ranks_over_the_whole_block():
    scores = {"a": torch.full((100,), 2.0), "b": torch.full((50,), 1.0)}
    keep = choose_neurons(scores, 0.1, ONE, overall=True)
    assert (len(keep["a"]), len(keep["b"])) == (100, 35)


def untaught(widths):
    torch.manual_seed(0)  # a block that nobody teaches takes its weights from the process's numbers
    net = EideticNetwork(mlp(FEATURES, widths), torch.zeros(2, FEATURES))
    job = net._job("t", "t0", task_loader(3, 3), Classify(3), QUICK, lambda event: None)
    return job, Block(net.program, "t0", (), {"t0": {**net.program.groups, "task_head": 3}})


def pruned(block, job, score, step):
    keep = choose_neurons(importance(job, block, score), step, dict.fromkeys(block.own, 1), score in OVERALL)
    return block.shrink(keep)


@examples(3, 8)
@given(widths=st.lists(st.integers(2, 40), min_size=2, max_size=3), step=st.floats(0.15, 0.4))
def test_no_layer_is_emptied_first_by_the_hybrid_score(widths, step):
    job, block = untaught(widths)
    while sum(block.own.values()) > len(widths):
        block = pruned(block, job, "hybrid", step)
        left = {g: n / w for (g, n), w in zip(block.own.items(), widths, strict=True) if n > 1}
        if left:
            assert max(left.values()) - min(left.values()) <= 1 / min(widths) + 1e-9


def test_taylor_and_weight_norms_take_more_of_one_layer_and_the_hybrid_the_same_share_of_each():
    spread = {}
    for score in ("taylor", "l2", "hybrid"):
        job, block = untaught((8, 80))
        while sum(block.own.values()) > 40:
            block = pruned(block, job, score, 0.1)
        left = [block.own["1"] / 8, block.own["3"] / 80]
        spread[score] = max(left) - min(left)
    assert spread["hybrid"] <= 1 / 8 < min(spread["taylor"], spread["l2"])


def test_random_scores_are_seeded_and_drawn_anew_at_each_width():
    job, block = untaught((12, 12))
    first, again = (importance(job, block, "random") for _ in range(2))
    assert all(torch.equal(first[g], again[g]) for g in first)
    smaller = block.shrink({g: torch.arange(11) for g in block.own})
    assert not torch.equal(importance(job, smaller, "random")["1"], first["1"][:11])


def test_shrinking_keeps_the_function_where_removed_neurons_did_nothing():
    net = untrained((12, 10), Residual)
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


@pytest.mark.parametrize("score", SCORES)
def test_what_is_left_still_reaches_the_accuracy_less_the_threshold(score):
    events = []
    net = untrained((24, 24))
    pruning = Pruning(score=score, step=0.2, threshold=0.05, recovery_epochs=2)
    net.train_task("a", task_loader(1, 3), names(3), pruning=pruning, training=QUICK, report=events.append)
    converged = max(e.accuracy for e in events if e.phase == "train")
    settled = max(e.accuracy for e in events if e.phase == "settle")
    assert settled >= converged - 0.05
    assert 2 <= sum(net.learned.block("t0").own.values()) < 48


def test_pruning_with_no_limit_ends_at_the_least_width():
    net = trained(1, router=False, pruning=Pruning(threshold=0.999, step=0.5, min_width=3))
    assert set(net.learned.block("t0").own.values()) == {3}


@pytest.mark.parametrize("score", SCORES)
def test_the_earlier_tasks_neurons_are_never_candidates(score):
    net = trained(1)
    before, owned = net.digests(), net.learned.block("t0").own
    pruning = Pruning(score=score, threshold=0.999, step=0.5)
    net.train_task("more", task_loader(5), names(2), training=QUICK, pruning=pruning)
    assert net.learned.block("t0").own == owned
    assert net.digests()["task 0"] == before["task 0"]
    assert set(net.learned.block("t1").own.values()) == {1}


def test_a_layer_may_have_a_least_width_of_its_own():
    net = untrained((24, 20))
    pruning = Pruning(threshold=0.999, step=0.5, min_width={"layers.0": 7})
    net.train_task("a", task_loader(1), names(2), training=QUICK, pruning=pruning)
    assert net.learned.block("t0").own == {"layers.0": 7, "layers.4": 1}


def test_a_layer_of_a_group_stands_for_the_group():
    program = untrained((12, 10), Residual).program
    assert Pruning(min_width={"outer.0": 4, "stem": 2}).limits(program).least == {"stem": 4, "inner.0": 1}


def test_a_least_width_for_an_unknown_layer_is_refused_before_anything_is_trained():
    net, seen = trained(1), []
    pruning = Pruning(min_width={"layer.0": 3})
    with pytest.raises(ConfigError, match=r"'layer\.0'; known: layers\.0, layers\.4"):
        net.train_task("a", task_loader(1), names(2), pruning=pruning, report=seen.append)
    assert seen == []


@pytest.mark.parametrize(("schedule", "faster", "epochs"), [("constant", 1, 5), ("fast", 2, 4)])
def test_the_learning_rate_is_scaled_while_pruning_recovers_and_put_back(schedule, faster, epochs):
    """A step of 0.9 leaves one neuron, which doesn't recover; it is followed by smaller ones."""
    rates, made, events = [], [], []

    class Recorded(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    def optimizer(parameters):
        made.append(Recorded(parameters, lr=0.4))
        return made[-1]

    training = Training(optimizer, patience=1, settle_patience=1, max_epochs=2)
    net = untrained((12, 12))
    pruning = Pruning(threshold=0.0, recovery_epochs=5, step=0.9, lr_factor=0.25, schedule=schedule)
    net.train_task("a", task_loader(1, 4), names(4), training=training, pruning=pruning, report=events.append)
    assert sorted(set(rates)) == pytest.approx(sorted({0.4, 0.1 * faster}))
    assert {m.param_groups[0]["lr"] for m in made} == {0.4}
    first = [e.phase for e in events].index("prune")
    assert [e.phase for e in events[:first]].count("recover") == epochs


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "l3"},
        {"step": 0.0},
        {"step": 1.0},
        {"threshold": -0.1},
        {"min_width": 0},
        {"min_width": {"a": 0}},
        {"schedule": "slow"},
        {"lr_factor": 0.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        Pruning(**wrong)


def naive_scores(block, x, y, score):
    """Each neuron of a two-layer perceptron scored by itself, in loops."""
    first, second = block.layer("1"), block.layer("3")
    if score == "hybrid":
        taylor, norms = naive_scores(block, x, y, "taylor"), naive_scores(block, x, y, "l2")
        both = {g: [t * n for t, n in zip(taylor[g], norms[g], strict=True)] for g in taylor}
        return {g: [1 - sum(other >= p for other in ps) / len(ps) for p in ps] for g, ps in both.items()}
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


@pytest.mark.parametrize("score", ["l1", "l2", "taylor", "hybrid"])
def test_scores_are_what_a_loop_over_neurons_computes(score):
    net = EideticNetwork(mlp(FEATURES, (5, 4)), torch.zeros(2, FEATURES))
    x, y = task_data(3, 3, 12)
    job = net._job("t", "t0", batches(x, y, 12), Classify(3), QUICK, lambda event: None)
    with seeded("weights that leave no neuron dead, for the dead ones tie"):
        block = Block(net.program, "t0", (), {"t0": {"1": 5, "3": 4, "task_head": 3}})
    scores = importance(job, block, score)
    for group, expected in naive_scores(block, x, y, score).items():
        assert scores[group].tolist() == pytest.approx(expected, rel=1e-4)
