"""Tasks that share one label space: a name that several of them have is one class."""

import json
import warnings
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import (
    CheckpointError,
    ConfigError,
    DataError,
    DataWarning,
    EideticNetwork,
    FittedRouting,
    NotReadyError,
    Routing,
    batches,
    evaluate,
)
from eideticnet.decision import answer, decide
from eideticnet.label_space import Labels, distinct, respond
from eideticnet.models import mlp
from eideticnet.runs.config import read_config
from eideticnet.runs.evaluation import calibration_error
from eideticnet.runs.run import begin, open_data
from tests.support.example_counts import examples
from tests.support.forked import eidetic
from tests.support.small_networks import LIGHT, QUICK, held_out, names, task_loader, trained
from tests.support.small_trunks import FEATURES
from tests.support.user_project import CONFIG, write_project

KINDS = "abcdefg"
CENTRES = 3 * torch.randn(len(KINDS), FEATURES, generator=torch.Generator().manual_seed(5))
OPTIONS = {"training": QUICK, "pruning": LIGHT}


def rows(kinds, seed=0, count=36):
    """Inputs around the centres of these kinds, and labels by their places."""
    y = torch.arange(count) % len(kinds)
    centres = CENTRES[[KINDS.index(kind) for kind in kinds]]
    return centres[y] + torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed)), y


def overlapping(label_space="shared", tasks=("abc", "cd", "dea"), routing=Routing(), **options):
    net = EideticNetwork(mlp(FEATURES, (24, 20)), torch.zeros(2, FEATURES), label_space=label_space)
    loaders = {kinds: batches(*rows(kinds, i), 12) for i, kinds in enumerate(tasks)}
    for kinds, loader in loaders.items():
        net.train_task(kinds, loader, list(kinds), **OPTIONS, **options)
    net.fit_router(loaders, routing=routing, training=QUICK)
    return net


@cache
def shared(decision="joint"):
    router = "none" if decision == "entropy" else "taps"
    return overlapping(routing=Routing(router, decision))


task_classes = st.lists(st.sampled_from(KINDS), min_size=2, max_size=5, unique=True)


@st.composite
def votes(draw, tasks=st.lists(task_classes, min_size=1, max_size=5)):
    """Classes of some tasks, and logits of their heads and of a router for some rows."""
    classes = draw(tasks)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    heads = [4 * torch.randn(9, len(c), generator=generator) for c in classes]
    router = 4 * torch.randn(9, sum(map(len, classes)), generator=generator)
    return classes, heads, router


def labels_of(classes):
    return Labels.of(distinct((str(i), c) for i, c in enumerate(classes)), classes)


@given(tasks=st.lists(task_classes, min_size=1, max_size=8), grown=st.lists(st.sampled_from(KINDS)))
def test_no_later_task_or_revision_ever_changes_the_index_of_a_class(tasks, grown):
    """A revision that adds classes is one more of the tasks that were learned."""
    learned = [*tasks, list(dict.fromkeys([*tasks[0], *grown]))]
    spaces = [distinct((str(i), c) for i, c in enumerate(learned[:n])) for n in range(len(learned) + 1)]
    for before, after in pairwise(spaces):
        assert after[: len(before)] == before
    assert set(spaces[-1]) == {name for classes in learned for name in classes}


@given(votes(), st.lists(st.integers(-1, 4), min_size=9, max_size=9), st.floats(0, 1))
def test_jointly_a_class_is_as_likely_as_all_tasks_together_say(given_votes, pins, threshold):
    classes, heads, router = given_votes
    labels, fitted = labels_of(classes), FittedRouting("block", "joint", 1.7, (0.8,) * len(classes))
    pinned = torch.tensor([p if p < len(classes) else -1 for p in pins])
    out = respond(fitted, heads, router, pinned, torch.full((9,), threshold), labels)
    tasks = decide(FittedRouting("block", "hard", 1.7), heads, router)
    for row in range(9):
        say = [dict.fromkeys(labels.names, 0.0) for _ in classes]
        for t, (head, mine) in enumerate(zip(heads, classes, strict=True)):
            say[t] |= zip(mine, (float(tasks[row, t]) * (head[row] / 0.8).softmax(0)).tolist(), strict=True)
        total = [sum(each[c] for each in say) for c in labels.names]
        if pinned[row] >= 0:
            mine, head = classes[pinned[row]], heads[pinned[row]][row]
            assert out.task[row] == pinned[row]
            assert labels.names[out.label[row]] == mine[int(head.argmax())]
            total = [dict(zip(mine, head.softmax(0).tolist(), strict=True)).get(c, 0.0) for c in labels.names]
        elif abs(max(total) - threshold) > 1e-5:
            unknown = max(total) < threshold
            assert (out.label[row] == -1) == (out.task[row] == -1) == unknown
            if not unknown:
                best = labels.names[out.label[row]]
                assert total[out.label[row]] == pytest.approx(max(total), abs=1e-5)
                assert best in classes[out.task[row]]
                assert say[out.task[row]][best] == pytest.approx(max(each[best] for each in say), abs=1e-5)
        assert out.label_probs[row].tolist() == pytest.approx(total, abs=1e-5)
    assert torch.equal(out.task_probs, tasks)


@given(votes(), st.sampled_from(["hard", "entropy"]))
def test_where_one_task_is_chosen_its_head_answers_and_who_else_knows_the_class_makes_it_surer(
    given_votes, decision
):
    classes, heads, router = given_votes
    labels, fitted = labels_of(classes), FittedRouting("block", decision)
    router = router if decision == "hard" else None
    route, sure = torch.full((9,), -1), torch.zeros(9)
    out = respond(fitted, heads, router, route, sure, labels)
    alone = answer(heads, decide(fitted, heads, router), route, sure)
    assert torch.equal(out.task, alone.task)
    assert torch.equal(out.task_probs, alone.task_probs)
    assert torch.equal(out.logits, alone.logits)
    for row, (task, own) in enumerate(zip(alone.task.tolist(), alone.label.tolist(), strict=True)):
        best = classes[task][own]
        assert labels.names[out.label[row]] == best
        known = sum(float(out.task_probs[row, t]) for t, c in enumerate(classes) if best in c)
        assert float(labels.sure(out, decision)[row]) == pytest.approx(known, abs=1e-5)
        for threshold, unknown in ((known - 1e-4, False), (known + 1e-4, True)):
            again = respond(fitted, heads, router, route, torch.full((9,), threshold), labels)
            assert (int(again.label[row]) == -1) == unknown


@given(votes(st.just([["a", "b"], ["c", "d", "e"], ["f", "g"]])), st.sampled_from(["hard", "joint"]))
def test_tasks_without_a_common_class_answer_as_in_separate_spaces(given_votes, decision):
    classes, heads, router = given_votes
    fitted, route, sure = FittedRouting("block", decision), torch.full((9,), -1), torch.zeros(9)
    labels = labels_of(classes)
    one, other = (respond(fitted, heads, router, route, sure, s) for s in (labels, None))
    assert torch.equal(one.task, other.task)
    assert torch.equal(one.label, labels.numbered(other.task, other.label))
    assert torch.equal(one.logits, other.logits)


@examples(5, 20)
@given(seed=st.integers(0, 1000))
def test_separate_spaces_answer_as_they_always_did(seed):
    net = trained(3)
    x = torch.randn(7, FEATURES, generator=torch.Generator().manual_seed(seed))
    heads, router = net.learned.votes(x)
    probs = decide(net.learned.routing, heads, router)
    expected = answer(heads, probs, torch.full((7,), -1), torch.zeros(7))
    assert all(torch.equal(a, b) for a, b in zip(net(x), expected, strict=True))
    assert net.classes == ()


def test_a_class_that_is_seen_again_changes_no_bit_of_earlier_tasks_and_no_index(tmp_path):
    net, x = shared(), held_out(20)
    first = overlapping(tasks=("abc", "cd"))
    assert (first.classes, net.classes) == (tuple("abcd"), tuple("abcde"))
    for task in first.tasks:
        assert torch.equal(net.task_logits(x, task.name), first.task_logits(x, task.name))
        assert net.digests()[task.name] == first.digests()[task.name]
    separate = overlapping("separate")
    assert separate.digests() == net.digests()
    out = net(x)
    assert out.label_probs.shape == (20, 5)
    assert torch.allclose(out.label_probs.sum(1), torch.ones(20))
    for task, label, named in zip(out.task.tolist(), out.label.tolist(), net.names(out), strict=True):
        assert named == (net.tasks[task].name, net.classes[label])
        assert named.label in net.tasks[task].classes
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert loaded.classes == net.classes
    assert all(torch.equal(a, b) for a, b in zip(out, loaded(x), strict=True))


def test_overlapping_tasks_are_right_more_often_in_one_label_space_than_in_separate_ones():
    """An input of a class that two tasks have is of neither, so a space of its own for each is a guess."""
    by_space = {space: overlapping(space, ("abc", "cde", "efa")) for space in ("separate", "shared")}
    tested = {kinds: batches(*rows(kinds, 50 + i, 120), 60) for i, kinds in enumerate(("abc", "cde", "efa"))}
    routed = {s: [r.routed for r in evaluate(n, tested).values()] for s, n in by_space.items()}
    assert sum(routed["shared"]) / 3 > sum(routed["separate"]) / 3 + 0.15


@pytest.mark.parametrize("decision", ["joint", "hard", "entropy"])
def test_evaluation_counts_a_class_as_right_whichever_task_says_it(decision):
    net = shared(decision)
    for name, report in evaluate(net, {k: batches(*rows(k, 7, 60), 60) for k in ("abc", "cd")}).items():
        x, y = rows(name, 7, 60)
        out = net(x)
        said = [n.label for n in net.names(out)]
        shares = [[label == name[i] for label, i in zip(said, y, strict=True) if i == c] for c in y.unique()]
        assert report.routed == pytest.approx(sum(sum(s) / len(s) for s in shares) / len(shares))


@pytest.mark.parametrize("decision", ["joint", "hard"])
def test_a_threshold_is_held_against_how_likely_the_class_is_and_rejects_what_was_asked(decision):
    tasks = ("abc", "cd", "dea")
    loaders, validation = ({k: batches(*rows(k, s + i), 12) for i, k in enumerate(tasks)} for s in (0, 70))
    net = overlapping(tasks=tasks)
    routing = Routing("taps", decision, false_rejections=0.2)
    net.fit_router(loaders, routing=routing, validation=validation, training=QUICK)
    x = torch.cat([loader.dataset.tensors[0] for loader in validation.values()])
    assert 0.2 - 2 / len(x) <= float((net(x).task < 0).double().mean()) <= 0.2
    _, after = net.learned.routing.calibration_error
    assert calibration_error(net, validation) == pytest.approx(after, abs=1e-6)


def test_a_revision_may_add_classes_and_changes_no_index_and_no_bit_of_the_first():
    net, x = overlapping(tasks=("ab", "bc"), memory=6), held_out()
    before = {name: net.task_logits(x, name) for name in ("ab", "bc")}
    task = net.revise_task("ab", batches(*rows("abda"[:3], 3), 12), ["a", "b", "d"], **OPTIONS)
    assert (task.revision, task.classes, task.memory) == (1, ("a", "b", "d"), None)
    assert net.classes == ("a", "b", "c", "d")
    assert torch.equal(net.task_logits(x, "ab", 0), before["ab"])
    assert torch.equal(net.task_logits(x, "bc"), before["bc"])
    with pytest.raises(DataError, match=r"data of \['ab'\]"):
        net.fit_router(training=QUICK)
    net.fit_router({"ab": batches(*rows("abd", 3), 12)}, training=QUICK)
    assert set(net.names(net(rows("d", 4)[0]))) >= {("ab", "d")}
    net.answer_with("ab", revision=0)
    assert net.classes == ("a", "b", "c", "d")
    with pytest.raises(NotReadyError):  # the router knows of a class that nobody answers
        net(x)
    net.fit_router(training=QUICK)
    assert net(x).label_probs.shape == (9, 4)
    assert not net(x).label_probs[:, 3].any()


def test_a_revision_may_add_classes_where_each_task_has_its_own_too():
    net = trained(2)
    net.revise_task("task 0", task_loader(0, 3), names(3), when_full="reuse", **OPTIONS)
    net.fit_router({t.name: task_loader(i, 3) for i, t in enumerate(net.tasks)}, training=QUICK)
    assert net(held_out(), torch.zeros(9, dtype=torch.int64)).label_probs[:, 2].all()


@pytest.mark.parametrize("classes", [["a"], ["b", "a"], ["a", "c"], ["c", "a", "b"]])
def test_a_revision_that_takes_classes_away_or_moves_them_is_refused(classes):
    net = overlapping(tasks=("ab",))
    with pytest.raises(DataError, match=r"classes"):
        net.revise_task("ab", batches(*rows("abc"), 12), classes, **OPTIONS)


def test_moments_of_added_classes_are_those_of_all_data_at_once():
    grown = overlapping(tasks=("ab", "bc"), moments=16, routing=Routing("moments"))
    data = rows("abd", 3)
    grown.revise_task("ab", batches(*data, 12), ["a", "b", "d"], moments=16, **OPTIONS)
    known, added = grown.learned.moments, data[0][data[1] == 2]
    z = known.features(added)
    assert torch.allclose(known.sums["ab"][2, :-1], z.double().sum(0))
    assert known.sums["ab"][:, -1].tolist() == [18, 18, 12]
    every = torch.cat([rows("ab", 0)[0], rows("bc", 1)[0], added])
    assert torch.allclose(known.products, (known.features(every).T @ known.features(every)).double())
    grown.fit_router(routing=Routing("moments"))
    assert grown(held_out()).label_probs.shape == (9, 4)
    grown.answer_with("ab", revision=0)
    with pytest.raises(DataError, match="no moments"):
        grown.fit_router(routing=Routing("moments"))
    with pytest.raises(DataError, match=r"moments of \['ab'\] were kept for more classes .* answer_with"):
        grown.fit_router({"ab": batches(*rows("ab"), 12)}, routing=Routing("moments"))


def test_before_it_is_exported_a_network_may_change_to_the_other_space():
    net = overlapping("separate")
    kept = net.digests()
    with pytest.raises(ConfigError, match=r"label_space 'both': use separate, shared"):
        net.answer_in("both")
    routing = net.learned.routing
    net.answer_in("separate")
    assert net.learned.routing == routing
    net.answer_in("shared")
    with pytest.raises(NotReadyError):
        net(held_out())
    net.fit_router({t.name: batches(*rows(t.name), 12) for t in net.tasks}, training=QUICK)
    assert net.classes == tuple("abcde")
    assert net.digests() == kept


def test_names_that_read_alike_are_one_class_only_if_they_are_written_alike():
    net = EideticNetwork(mlp(FEATURES, (24, 20)), torch.zeros(2, FEATURES), label_space="shared")
    net.train_task("one", task_loader(0), ["caf\u00e9", "b"], **OPTIONS)
    with pytest.raises(DataError, match=r"task 'two': class .* reads like .* of task 'one'"):
        net.train_task("two", task_loader(1), ["cafe\u0301", "c"], **OPTIONS)
    net.answer_in("separate")
    net.train_task("two", task_loader(1), ["cafe\u0301", "c"], **OPTIONS)
    with pytest.raises(DataError, match="write it the same"):
        net.answer_in("shared")


def test_rows_of_one_class_may_stand_in_two_tasks_and_under_two_names_they_may_not():
    net = overlapping(tasks=("ab", "bc"))
    x, y = rows("ab")
    again = batches(torch.cat([x[y == 1], rows("c")[0]]), torch.cat([y[y == 1] - 1, rows("c")[1] + 1]), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        net.fit_router({"ab": batches(x, y, 12), "bc": again}, training=QUICK)
    with pytest.raises(DataError, match="hold the same inputs under other names of classes"):
        net.fit_router({"ab": batches(x, y, 12), "bc": batches(x, y, 36)}, training=QUICK)
    net.answer_in("separate")
    with pytest.warns(
        DataWarning, match='hold the same inputs.*label_space="shared" lets these count as one'
    ):
        net.fit_router({"ab": batches(x, y, 12), "bc": again}, training=QUICK)


def test_a_reader_that_knows_no_shared_space_refuses_a_checkpoint_with_one(tmp_path):
    """The schema is another one, where nothing else is new."""
    shared().save(tmp_path / "shared")
    trained(2).save(tmp_path / "separate")
    for name, schema in (("separate", 2), ("shared", 3)):
        assert json.loads((tmp_path / name / "network.json").read_text())["schema"] == schema
    manifest = json.loads((tmp_path / "shared/network.json").read_text())
    (tmp_path / "shared/network.json").write_text(json.dumps({**manifest, "schema": 2}))
    with pytest.raises(CheckpointError, match="is not what was saved"):
        EideticNetwork.load(tmp_path / "shared")


OVERLAPPING = CONFIG.replace('classes = ["cod", "eel", "ray"]', 'classes = ["cod", "eel", "wren"]')


def test_a_run_changes_its_label_space_by_learning_its_router_again_and_nothing_else(tmp_path):
    write_project(tmp_path)
    (tmp_path / "separate.toml").write_text(OVERLAPPING)
    (tmp_path / "shared.toml").write_text('label_space = "shared"\n' + OVERLAPPING)
    assert eidetic("train", "separate.toml", cwd=tmp_path).end().returncode == 0
    first = EideticNetwork.load(tmp_path / "runs/mine")
    told = eidetic("train", "shared.toml", cwd=tmp_path).end()
    assert told.returncode == 0, told
    second = EideticNetwork.load(tmp_path / "runs/mine")
    assert (first.classes, second.classes) == ((), ("owl", "wren", "cod", "eel"))
    assert first.digests() == second.digests()
    assert "is complete" in eidetic("train", "shared.toml", cwd=tmp_path).end().stdout


def test_a_run_says_where_one_task_learns_what_another_is_tested_with(tmp_path):
    write_project(tmp_path)
    same = OVERLAPPING.replace("fish.safetensors", "birds.npz").replace(
        '"cod", "eel", "wren"', '"owl", "wren"'
    )
    config = read_config(_written(tmp_path, 'label_space = "shared"\n' + same))
    with pytest.warns(DataWarning, match=r"task '\w+': \d+ of 16 test rows are training rows of task"):
        open_data(begin(config), config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('label_space = "common"', r"label_space = 'common': use 'separate' or 'shared'"),
        ('label_space = "shared"', "task 'fish': class .* reads like 'owl.*write it the same"),
    ],
)
def test_a_label_space_that_can_not_be_is_told_before_anything_runs(text, message, tmp_path):
    names = CONFIG.replace('"owl"', '"owl\u00e9"').replace('"cod"', '"owle\u0301"')
    with pytest.raises(ConfigError, match=message):
        read_config(_written(tmp_path, f"{text}\n{names}"))


def _written(folder, text):
    (folder / "config.toml").write_text(text)
    return folder / "config.toml"
