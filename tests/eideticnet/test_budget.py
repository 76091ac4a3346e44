"""A budget holds whatever it costs, and a plan leaves neurons for the tasks to come."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import (
    BudgetWarning,
    CapacityError,
    CheckpointError,
    ConfigError,
    DataError,
    EideticNetwork,
    Pruning,
    Training,
)
from eideticnet.block import Block
from eideticnet.learn import pruning
from eideticnet.learn.pruning import prune
from eideticnet.learn.schedules import SCHEDULES
from eideticnet.learn.scores import SCORES
from eideticnet.learn.training import Classify
from eideticnet.runs import history
from eideticnet.runs.history import Recorder
from eideticnet.runs.report import render
from tests.support.example_counts import examples
from tests.support.small_networks import LIGHT, QUICK, names, task_loader, trained, untrained
from tests.support.small_trunks import FEATURES, Mlp, Residual
from tests.support.user_project import CONFIG, TASKS

ALWAYS = Pruning(step=0.5, threshold=0.999, recovery_epochs=0)
NEVER = Pruning(step=0.5, threshold=0.0, recovery_epochs=0)


def network(planned=None, widths=(24, 20)):
    net = untrained(widths)
    net.planned_tasks = planned
    return net


def learn(net, number, pruning=LIGHT, **options):
    options = {"training": QUICK, "pruning": pruning, **options}
    return net.train_task(f"task {number}", task_loader(number), names(2), **options)


@examples(10, 60)
@given(
    schedule=st.sampled_from(list(SCHEDULES)),
    score=st.sampled_from(SCORES),
    step=st.floats(0.05, 0.95),
    budget=st.floats(0.09, 1.0) | st.fixed_dictionaries({"layers.4": st.floats(0.09, 1.0)}),
    answers=st.lists(st.booleans(), min_size=1, max_size=9),
)
def test_a_pruned_block_never_owns_more_than_its_budget_and_a_failed_step_never_loses_the_good_block(
    schedule, score, step, budget, answers
):
    """Real blocks and scores, a recovery that trains nothing and says what it likes."""
    net, made = network(widths=(16, 12)), []
    job = net._job("t", "t0", task_loader(1), Classify(2), QUICK, lambda event: None)
    block = Block(net.program, "t0", (), {"t0": {**net.program.groups, "task_head": 2}})
    limits = Pruning(score, step, schedule=schedule, budget=budget).limits(net.program)

    def recover(job, smaller, *_):
        over = limits.exceeded(smaller)
        made.append((smaller, over, answers[len(made) % len(answers)]))
        return float(made[-1][2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "recover", recover)
        patch.setattr(pruning, "measured", lambda *_: 1.0)
        found = prune(job, block, limits)
    assert not limits.exceeded(found)
    kept = {"layers.0": 1.0, "layers.4": 1.0} | (budget if isinstance(budget, dict) else {})
    for group, share in kept.items():
        share = share if isinstance(budget, dict) else budget
        assert 1 <= found.own[group] <= share * net.program.groups[group] + 1e-6
    forced = [smaller for smaller, over, _ in made if over]
    within = made[len(forced) :]
    # Down to the budget every step counts; from there on the last one that recovered does.
    down = [block, *forced, *(smaller for smaller, *_ in within[: limits.exceeded(block)])]
    good = [smaller for smaller, _, recovered in within if recovered]
    assert found is (good[-1] if good else down[-1])


def test_what_a_budget_cost_is_told_in_event_warning_history_table_and_page():
    net, events = network(), []
    recorder = Recorder(net, {"task 0": task_loader(7, 4)})

    def report(event):
        events.append(event)
        recorder.event(event)

    cheap = Pruning(step=0.5, threshold=0.0, recovery_epochs=0, budget=0.05)
    loader, training = task_loader(7, 4), Training(QUICK.optimizer, 2, 1, 12)
    with pytest.warns(BudgetWarning, match=r"^task 0: within its budget training accuracy is 0\.") as told:
        net.train_task("task 0", loader, names(4), training=training, pruning=cheap, report=report)
    assert sum(issubclass(w.category, BudgetWarning) for w in told) == 1
    assert net.learned.block("t0").own == {"layers.0": 1, "layers.4": 1}
    before = max(e.accuracy for e in events if e.phase == "train")
    after = max(e.accuracy for e in events if e.phase == "settle")
    assert (events[-1].phase, events[-1].accuracy) == ("budget", after)
    assert events[-1].neurons == {"layers.0": 1, "layers.4": 1}
    recorder.task_learned("task 0", cheap.threshold)
    curve = history.read(net).pruning["task 0"]
    assert curve.cost == f"{before:.1%} to {after:.1%}"
    assert f"{after:.3f}, before pruning it was {before:.3f}" in curve.overdrawn
    assert f"task 0: pruned to a budget, training accuracy went from {curve.cost}" in render(net, title="t")


def test_a_budget_that_costs_nothing_is_no_warning(recwarn):
    net, events = network(), []
    learn(net, 0, Pruning(step=0.5, threshold=0.999, recovery_epochs=0, budget=0.5), report=events.append)
    assert not [w for w in recwarn if issubclass(w.category, BudgetWarning)]
    assert events[-1].neurons == {"layers.0": 12, "layers.4": 10}
    learn(net, 1, ALWAYS, report=events.append)
    assert [e.phase for e in events].count("budget") == 1


def test_a_budget_may_differ_by_layer_and_a_layer_stands_for_its_group():
    net = network()
    learn(net, 0, Pruning(step=0.5, threshold=0.0, recovery_epochs=0, budget={"layers.0": 0.25}))
    assert net.learned.block("t0").own["layers.0"] <= 6
    program = EideticNetwork(Residual((12, 10)), torch.zeros(2, FEATURES)).program
    assert Pruning(budget={"outer.0": 0.5, "stem": 0.3}).limits(program).most == {"stem": 3, "inner.0": 10}


@pytest.mark.parametrize(
    ("share", "of", "neurons"), [(0.29, 100, 29), (0.2, 5, 1), (0.07, 100, 7), (1, 3, 3)]
)
def test_a_share_of_neurons_is_not_lost_to_rounding(share, of, neurons):
    program = network(widths=(of, of)).program
    assert set(Pruning(budget=share).limits(program).most.values()) == {neurons}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"budget": 0.2, "min_width": 5},
            r"budget 0\.2 of the 24 neurons of 'layers\.0' is 4, and min_width",
        ),
        ({"budget": 0.01}, r"is 0, and min_width or its operations keep 1; raise the budget"),
        ({"budget": {"layers.9": 0.5}}, r"budget names 'layers\.9'; known: layers\.0"),
    ],
)
def test_a_budget_that_can_not_be_held_is_refused_before_anything_is_trained(settings, words):
    net, seen = network(), []
    with pytest.raises(ConfigError, match=words):
        learn(net, 0, Pruning(**settings), report=seen.append)
    assert seen == []


@pytest.mark.parametrize("wrong", [0, -0.1, 1.5, float("nan"), True, "a", {"layers.0": 0}])
def test_a_budget_is_a_share(wrong):
    with pytest.raises(ConfigError, match=r"budget .*use a share of the neurons, such as 0\.2"):
        Pruning(budget=wrong)


@examples(4, 12)
@given(
    planned=st.integers(1, 5),
    widths=st.tuples(st.integers(5, 24), st.integers(5, 24)),
    prunings=st.lists(st.sampled_from([ALWAYS, NEVER, None]), min_size=5, max_size=5),
    disjoint=st.booleans(),
)
def test_every_planned_task_finds_an_equal_share_of_what_is_free(planned, widths, prunings, disjoint):
    net = network(planned, widths)
    for number in range(planned):
        free = {g: row["free"] for g, row in net.capacity().items()}
        learn(net, number, prunings[number], reads=[] if disjoint else None)
        for group, n in net.learned.block(f"t{number}").own.items():
            assert 1 <= n <= free[group] // (planned - number)
            if prunings[number] is None:
                assert n == free[group] // (planned - number)
    left = {g: row["free"] for g, row in net.capacity().items()}
    if all(left.values()):
        learn(net, planned, None)  # beyond the plan: all that is left
        assert net.learned.block(f"t{planned}").own == left
    else:
        with pytest.raises(CapacityError, match="planned_tasks"):
            learn(net, planned)


def test_a_revision_takes_no_planned_tasks_share_and_what_is_widened_is_shared():
    net = network(3, (12, 12))
    learn(net, 0, None)
    net.revise_task("task 0", task_loader(0), pruning=None, training=QUICK)
    assert set(net.learned.block("t1").own.values()) == {8 // 3}
    net.widen({"layers.0": 4})
    learn(net, 1, None)
    learn(net, 2, None)
    assert [net.learned.block(o).own["layers.0"] for o in ("t2", "t3")] == [5, 5]
    assert [net.learned.block(o).own["layers.4"] for o in ("t2", "t3")] == [3, 3]


@pytest.mark.parametrize("how", [ALWAYS, None])
def test_a_planned_task_without_a_share_of_a_layer_reuses_what_others_have_there(how):
    net = network(3, (12, 12))
    learn(net, 0, None)
    net.widen({"layers.0": 1})
    net.planned_tasks = 11  # 9 and 8 free neurons for ten tasks
    learn(net, 1, how, when_full="reuse")
    assert net.learned.block("t1").own == {"layers.0": 0, "layers.4": 0}
    net.planned_tasks = 10
    learn(net, 2, how, when_full="reuse")
    assert net.learned.block("t2").own == {"layers.0": 1, "layers.4": 1}


def test_a_plan_that_can_not_fit_is_refused_before_the_first_task_is_trained():
    net, seen = network(5), []
    with pytest.raises(CapacityError, match=r"layers\.0 has 24 free neurons for 5 tasks .* each needs 5"):
        learn(net, 0, Pruning(min_width=5), report=seen.append)
    assert seen == []
    with pytest.raises(CapacityError, match=r"layers\.4 has 20 free neurons for 21 tasks"):
        learn(network(21), 0, ALWAYS)
    with pytest.raises(CapacityError, match="21 tasks"):
        learn(network(21), 0, ALWAYS, when_full="reuse")  # there is nothing to reuse
    widened = network(21)
    learn(widened, 0, ALWAYS, when_full="widen")
    assert widened.capacity()["layers.4"] == {"total": 30, "task 0": 1, "free": 29}


def test_a_plan_lies_in_the_checkpoint_and_in_no_digest(tmp_path):
    plain, planned = network(), network(2)
    for net in (plain, planned):
        learn(net, 0, LIGHT)
    assert planned.digests() == plain.digests()
    planned.save(tmp_path / "planned")
    assert EideticNetwork.load(tmp_path / "planned").planned_tasks == 2
    plain.save(tmp_path / "plain")
    assert "planned_tasks" not in json.loads((tmp_path / "plain" / "network.json").read_text())
    assert EideticNetwork.load(tmp_path / "plain").planned_tasks is None
    manifest = tmp_path / "planned" / "network.json"
    manifest.write_text(manifest.read_text().replace('"planned_tasks": 2', '"planned_tasks": 9'))
    with pytest.raises(CheckpointError, match="not what was saved"):
        EideticNetwork.load(tmp_path / "planned")


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "5"])
def test_a_plan_is_a_number_of_tasks(wrong):
    with pytest.raises(DataError, match="planned_tasks"):
        EideticNetwork(Mlp((8, 8)), torch.zeros(2, FEATURES), planned_tasks=wrong)


# -- in a configuration ----------------------------------------------------------------------------


def configured(project, *replacements):
    text = CONFIG
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (project / "config.toml").write_text(text)


HARD = ("threshold = 0.3", "threshold = 0.0\nrecovery_epochs = 0")
PLANNED = ("seed = 1", "seed = 1\nplanned_tasks = 2")


def test_a_planned_run_learns_all_its_tasks_and_shows_what_the_plan_cost(project, run):
    configured(project, HARD, PLANNED)
    output = run("train", "config.toml").stdout
    net = EideticNetwork.load(project / "runs/mine")
    assert all(row["birds"] <= 12 for row in net.capacity().values())
    curves = history.read(net).pruning
    assert curves["birds"].cost.replace(" to ", " ") in output.replace(" to ", " ").replace("\n", " ")
    assert output.count("keys of [pruning]") == sum(bool(c.overdrawn) for c in curves.values())
    run("add-task", "runs/mine", "more.toml", "--when-full", "widen")
    assert EideticNetwork.load(project / "runs/mine").planned_tasks == 3  # it is part of the plan now


def test_the_plan_may_change_while_a_run_goes_on(project, run):
    configured(project, HARD, ("seed = 1", "seed = 1\nplanned_tasks = 3"))
    run("train", "config.toml")
    configured(project, HARD, ("seed = 1", "seed = 1\nplanned_tasks = 4"))
    (project / "config.toml").write_text((project / "config.toml").read_text() + TASKS)
    run("train", "config.toml")
    net = EideticNetwork.load(project / "runs/mine")
    assert net.planned_tasks == 4
    assert all(row["free"] >= row["frogs"] for row in net.capacity().values())


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ([("seed = 1", "seed = 1\nplanned_tasks = 1")], "planned_tasks = 1, for 2 [[tasks]]; plan"),
        ([("seed = 1", "seed = 1\nplanned_tasks = 0")], "planned_tasks = 0"),
        (
            [("threshold = 0.3", "threshold = 0.3\nmin_width = 13")],
            "birds, fish: 0 has 24 free neurons for 2 tasks to come, and each needs 13 (min_width",
        ),
        (
            [("threshold = 0.3", "threshold = 0.3\nmin_width = 3\nbudget = 0.1")],
            "[pruning] budget 0.1 of the 24 neurons of '0' is 2, and min_width",
        ),
        ([("seed = 1", "seed = 1\nplanned_tasks = 25")], "0 has 24 free neurons for 25 tasks to come"),
    ],
)
def test_what_can_not_fit_is_said_before_the_first_task_is_trained(project, run, replacements, words):
    configured(project, *replacements)
    result = run("train", "config.toml", check=False)
    assert words in result.error
    assert "birds:" not in result.stdout
    assert not (project / "runs/mine/network.json").exists()


@pytest.mark.filterwarnings("default")
def test_budgets_that_are_more_than_there_is_are_a_warning(project, run):
    over = "warning: config.toml: 2 tasks with a [pruning] budget of 14 neurons of 0 are more than it has"
    configured(project, ("threshold = 0.3", "threshold = 0.3\nbudget = 0.6"))
    assert over in run("train", "config.toml").stderr
    configured(project, PLANNED, ("threshold = 0.3", "threshold = 0.3\nbudget = 0.6"))
    assert "are more than it has" not in run("train", "config.toml", "--out", "other").stderr


def test_trained_networks_without_a_plan_are_what_they_were():
    assert trained(1).planned_tasks is None
