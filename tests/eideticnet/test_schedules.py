"""Every schedule ends, whatever recovers and whatever does not, and respects the least widths."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import Pruning
from eideticnet.learn import pruning
from eideticnet.learn.schedules import SCHEDULES
from eideticnet.learn.scores import SCORES
from tests.support.example_counts import examples
from tests.support.small_networks import QUICK, names, task_loader, untrained


class Sizes:
    """A block as schedules see it."""

    def __init__(self, own):
        self.own = own


def run(schedule, widths, step, least, recovers, overall=False):
    """The final widths and all trials (before, after, whether it recovered), on random scores."""
    trials = []

    def trial(block, share):
        scores = {g: torch.rand(n) for g, n in block.own.items()}
        keep = pruning.choose_neurons(scores, share, least, overall)
        if keep is None:
            return block, False
        smaller = Sizes({g: len(k) for g, k in keep.items()})
        trials.append((block.own, smaller.own, recovers(smaller.own, len(trials))))
        return smaller, trials[-1][2]

    trial.overall = overall
    return SCHEDULES[schedule](Sizes(widths), trial, step, least).own, trials


def bound(schedule, total, step):
    """The most trials that a schedule may make."""
    steps, halvings = total, math.log2(total) + 2
    if schedule == "bisection":
        halvings += math.log2(max(math.log(total / (1 - step) ** 2) / -math.log(1 - step), 2)) + 2
    return steps + halvings


@examples(50, 150)
@given(
    schedule=st.sampled_from(list(SCHEDULES)),
    widths=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    step=st.floats(0.01, 0.95),
    least=st.integers(1, 30),
    answers=st.lists(st.booleans(), min_size=1, max_size=20),
    overall=st.booleans(),
)
def test_a_schedule_ends_whatever_recovers(schedule, widths, step, least, answers, overall):
    own = {f"g{i}": n for i, n in enumerate(widths)}
    limits = dict.fromkeys(own, least)
    final, trials = run(schedule, own, step, limits, lambda _, i: answers[i % len(answers)], overall)
    assert len(trials) <= bound(schedule, sum(widths), step)
    for before, after, _ in trials:
        assert sum(after.values()) < sum(before.values())
    assert all(final[g] >= min(n, least) for g, n in own.items())
    recovered = [after for _, after, good in trials if good]
    assert final == (recovered[-1] if recovered else own)


@examples(20, 60)
@given(
    schedule=st.sampled_from(list(SCHEDULES)),
    width=st.integers(2, 400),
    step=st.floats(0.02, 0.5),
    share=st.floats(0, 1),
)
def test_where_only_the_number_counts_every_schedule_finds_the_minimum(schedule, width, step, share):
    minimum = max(1, round(width * share))
    final, _ = run(schedule, {"g": width}, step, {"g": 1}, lambda own, _: own["g"] >= minimum)
    assert final["g"] == minimum


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_always_recovers_ends_at_the_least_widths(schedule):
    final, _ = run(schedule, {"a": 90, "b": 3}, 0.1, {"a": 4, "b": 7}, lambda own, _: True)
    assert final == {"a": 4, "b": 3}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_never_recovers_stays_whole(schedule):
    final, trials = run(schedule, {"a": 90, "b": 30}, 0.1, {"a": 1, "b": 1}, lambda own, _: False)
    assert final == {"a": 90, "b": 30}
    assert trials[-1][1] == {"a": 89, "b": 29}
    assert len(trials) <= math.log2(90) + 3


@examples(30, 90)
@given(
    schedule=st.sampled_from(list(SCHEDULES)),
    widths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    step=st.floats(0.01, 0.95),
    least=st.integers(1, 9),
    answers=st.lists(st.booleans(), min_size=1, max_size=20),
    overall=st.booleans(),
)
def test_a_step_that_fails_is_tried_again_smaller_down_to_one_neuron_before_pruning_ends(
    schedule, widths, step, least, answers, overall
):
    own = {f"g{i}": n for i, n in enumerate(widths)}
    final, trials = run(
        schedule, own, step, dict.fromkeys(own, least), lambda _, i: answers[i % len(answers)], overall
    )
    if all(n <= least for n in final.values()):
        return  # no neuron may go
    before, after, recovered = trials[-1]
    gone = [n - after[g] for g, n in before.items()]
    assert (before, recovered) == (final, False)
    assert (sum(gone) if overall else max(gone)) == 1


def test_a_bisection_makes_fewer_trials_than_constant_steps():
    counts = {
        s: len(run(s, {"a": 256, "b": 256}, 0.1, {"a": 1, "b": 1}, lambda own, _: own["a"] >= 12)[1])
        for s in SCHEDULES
    }
    assert counts["bisection"] < counts["constant"] / 2


@examples(6, 15)
@given(
    schedule=st.sampled_from(list(SCHEDULES)),
    score=st.sampled_from(SCORES),
    reached=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=9),
    least=st.integers(1, 9),
)
def test_a_tasks_pruning_ends_with_any_recovery(schedule, score, reached, least):
    """The real blocks and scores, a recovery that says what it likes."""
    net = untrained((16, 12))
    calls = []

    def recover(*_):
        calls.append(1)
        return reached[len(calls) % len(reached)]

    settings_ = Pruning(score=score, schedule=schedule, step=0.3, min_width=least)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "recover", recover)
        net.train_task("t", task_loader(1), names(2), training=QUICK, pruning=settings_)
    assert len(calls) <= 28 + 7
    assert all(n >= least for n in net.learned.block("t0").own.values())
