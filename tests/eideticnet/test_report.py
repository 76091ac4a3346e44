"""``report``: one page about a run, from what was remembered while it went on."""

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import EideticNetwork, Routing
from eideticnet.__main__ import main
from eideticnet.runs import history, plots
from eideticnet.runs.evaluation import evaluate
from eideticnet.runs.report import render, write_report
from eideticnet.runs.run import load, open_data
from tests.support.eidetic_command import EIDETIC
from tests.support.example_counts import examples
from tests.support.forked import eidetic
from tests.support.small_networks import trained
from tests.support.task_files import write_tasks
from tests.support.user_project import TASKS

ROOT = Path(__file__).parents[2]
ODD = '<b>&" $x_1$'
CONFIG = """
name = "odd <i>names</i>"
seed = 1
[trunk]
target = "reported_trunk:build"
[input]
shape = [6]
[training]
learning_rate = 0.02
max_epochs = 4
patience = 2
settle_patience = 2
[pruning]
step = 0.5
threshold = 0.3
[router_pruning]
step = 0.5
threshold = 0.3
[[tasks]]
name = '<b>&" $x_1$'
classes = ["owl", "</td>"]
data = "birds.npz"
[[tasks]]
name = "fish"
classes = ["cod", "eel", "ray"]
data = "fish.safetensors"
"""
TRUNK = """
from torch import nn
def build():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU())
"""


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A user's folder, which the trunk is imported from, and in it a run of two tasks."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "reported_trunk.py").write_text(TRUNK)
    write_tasks(folder)
    (folder / "config.toml").write_text(CONFIG)
    (folder / "more.toml").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        assert call("train", folder / "config.toml", "--out", folder / "run") == 0
        yield folder


@pytest.fixture(scope="module")
def page(project):
    assert call("report", project / "run") == 0
    return (project / "run/report.html").read_text(encoding="utf-8")


def text_of(page):
    return " ".join(" ".join(ElementTree.fromstring(page).itertext()).split())


def changed(net, folder, **metadata):
    """The page about the run with other metadata; None leaves an entry out."""
    merged = {**net.metadata, **metadata}
    net.metadata = {key: value for key, value in merged.items() if value is not None}
    net.save(folder)
    write_report(folder, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(page):
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"\w+://[^\"' ]*", page)) <= names
    assert not re.search(r"<(script|link|img|iframe|object|embed|base)\b|@import|@font-face", page)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_all_sections_and_pictures_are_there(page):
    tree = ElementTree.fromstring(page)
    sections = [s.get("id") for s in tree.iter("section")]
    assert sections == ["tasks", "accuracy", "capacity", "pruning", "routing", "configuration"]
    pictures = list(tree.iter("{http://www.w3.org/2000/svg}svg"))
    assert len(pictures) == 1 + 1 + 3 + 1  # accuracy, capacity, two tasks and the router, reliability
    labels = [f.get("aria-label") for f in tree.iter("figure") if f.get("role")]
    assert len(labels) == len(pictures)
    assert all(labels)
    assert 'class="missing"' not in page
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_the_figures_are_those_of_the_network(project, page):
    net = EideticNetwork.load(project / "run")
    shown = text_of(page)
    spent = net.capacity().arithmetic
    for number in (sum(spent.tasks.values()), spent.router, spent.total, spent.plain):
        assert f"{number:,}" in shown
    assert f"{spent.share:.2f}" in shown
    for task in net.tasks:
        report = net.metadata["report"][task.name]
        assert f"{100 * report['oracle']:.1f} %" in shown
        assert f"{100 * report['routed']:.1f} %" in shown
        assert net.digests()[task.name][:12] in shown
    assert torch.__version__ in shown
    assert "All 3 are exactly 0" in shown


def test_names_are_shown_as_they_are_and_never_as_markup(page):
    assert "<b>&" not in page
    assert "<i>names" not in page
    assert "owl, </td>" not in page
    shown = text_of(page)
    assert ODD in shown
    assert "odd <i>names</i>" in shown
    assert "owl, </td>" in shown


def test_the_same_run_gives_the_same_bytes_whatever_surrounds_it(project, page, tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.linewidth: 5\naxes.labelsize: 30\n")
    surroundings = {"PYTHONHASHSEED": "7", "MPLCONFIGDIR": str(tmp_path)}
    command = [EIDETIC, "report", str(project / "run"), "--out", "again.html"]
    subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **surroundings},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_run_from_before_histories_gets_what_can_be_made(project, tmp_path):
    net = EideticNetwork.load(project / "run")
    page = changed(net, tmp_path, history=None)
    assert len(list(ElementTree.fromstring(page).iter("{http://www.w3.org/2000/svg}svg"))) == 1
    shown = text_of(page)
    assert "No history: this run was trained by a version that kept none" in shown
    assert f"No pruning was recorded for: {ODD}, fish, router" in shown
    assert "router confusion and calibration were not measured" in shown
    assert "exactly" not in shown.partition("Tasks")[0]


def test_a_network_made_in_python_gets_what_can_be_made(tmp_path):
    trained(2).save(tmp_path)
    write_report(tmp_path, tmp_path / "report.html")
    shown = text_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "no configuration is recorded" in shown
    assert "task 1" in shown


def test_history_goes_on_after_an_interruption_and_with_added_tasks(project, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(EideticNetwork, "fit_router", interrupt)
        assert call("train", project / "config.toml", "--out", tmp_path / "run") != 0
    half = history.read(EideticNetwork.load(tmp_path / "run"))
    assert [m.learned for m in half.moments] == [ODD, "fish"]
    assert half.routing is None
    assert call("report", tmp_path / "run") == 0
    assert "The router has not been learned yet" in (tmp_path / "run/report.html").read_text()

    assert call("train", project / "config.toml", "--out", tmp_path / "run") == 0
    assert call("add-task", tmp_path / "run", project / "more.toml") == 0
    whole = history.read(EideticNetwork.load(tmp_path / "run"))
    assert [m.learned for m in whole.moments] == [ODD, "fish", "router", "frogs", "router"]
    assert whole.moments[:2] == half.moments
    assert [set(m.routed) for m in whole.moments] == [
        set(),
        set(),
        {ODD, "fish"},
        set(),
        {ODD, "fish", "frogs"},
    ]
    assert [len(m.drift) for m in whole.moments] == [0, 1, 2, 2, 3]
    assert all(d == 0 for m in whole.moments for d in m.drift.values())
    assert set(whole.pruning) == {ODD, "fish", "frogs", "router"}
    assert call("report", tmp_path / "run") == 0
    assert "frogs" in text_of((tmp_path / "run/report.html").read_text())


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_what_is_remembered_is_what_a_slow_count_finds(project):
    net, config = load(project / "run")
    data = {name: d.test for name, d in open_data(net, config).items()}
    kept, reports = history.read(net), evaluate(net, data)
    last = kept.moments[-1]
    assert last.oracle == {name: r.oracle for name, r in reports.items()}
    assert last.routed == {name: r.routed for name, r in reports.items()}

    rows = []
    for index, task in enumerate(net.tasks):
        for x, _ in data[task.name]:
            out = net(x)
            rows += [(index, int(t), float(p.max())) for t, p in zip(out.task, out.task_probs, strict=True)]
    for i in range(len(net.tasks)):
        counts = [sum(1 for a, b, _ in rows if (a, b) == (i, j)) for j in range(len(net.tasks))]
        assert kept.routing.confusion[i] == [*counts, 0]
    error = 0.0
    for k in range(history.BINS):
        inside = [r for r in rows if min(int(r[2] * history.BINS), history.BINS - 1) == k]
        if inside:
            right = np.mean([a == b for a, b, _ in inside])
            error += len(inside) / len(rows) * abs(right - np.mean([p for *_, p in inside]))
    assert kept.routing.calibration_error == pytest.approx(error, abs=1e-12)


def test_a_pruning_curve_begins_unpruned_and_its_choice_holds_the_target(project):
    net = EideticNetwork.load(project / "run")
    kept = history.read(net)
    capacity = net.capacity()
    for name, curve in kept.pruning.items():
        assert curve.chosen == {g: row[name] for g, row in capacity.items()}
        tried = {tuple(s.neurons.values()): s.accuracy for s in curve.steps}
        assert tried[tuple(curve.chosen.values())] >= curve.target
    assert kept.pruning[ODD].steps[0].neurons == {g: row["total"] for g, row in capacity.items()}


def test_a_missing_library_is_named_with_the_extra_and_training_does_without(project, tmp_path):
    def bare(*arguments):
        changes = "import sys; sys.modules['matplotlib'] = sys.modules['jinja2'] = None"
        return eidetic(*arguments, changes=changes).end()

    trained = bare("train", project / "config.toml", "--out", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    refused = bare("report", tmp_path / "run")
    assert refused.returncode == 1
    assert re.fullmatch(
        r"error: eidetic report needs (jinja2|matplotlib): pip install 'eideticnet\[train,report\]'\n",
        refused.stderr,
    )
    assert not (tmp_path / "run/report.html").exists()


def test_a_page_that_can_not_be_written_is_one_line_and_no_half_file(project, tmp_path, capsys):
    assert call("report", project / "run", "--out", tmp_path / "nowhere/page.html") == 1
    assert "nowhere/page.html" in capsys.readouterr().err
    (tmp_path / "folder.html").mkdir()
    for out in (tmp_path / "folder.html", "."):
        assert call("report", project / "run", "--out", out) == 1
        assert f"{out} is a folder; name a file, such as " in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_a_damaged_history_is_one_line_that_names_the_field(project, tmp_path, capsys):
    net = EideticNetwork.load(project / "run")
    text = json.dumps(net.metadata["history"]).replace('"bins": [', '"bims": [')
    net.metadata = {**net.metadata, "history": json.loads(text)}
    net.save(tmp_path / "run")
    assert call("report", tmp_path / "run") == 1
    assert "history in the checkpoint is damaged at routing.bins" in capsys.readouterr().err


FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=4)


@given(FLOATS, st.data())
def test_drift_is_never_zero_unless_every_number_is_equal(values, data):
    before = torch.tensor(values)
    after = before.clone()
    place = data.draw(st.integers(0, len(values) - 1))
    after[place] = data.draw(st.floats(width=32)) if data.draw(st.booleans()) else one_bit_more(after[place])
    drift = history.largest_change(before, after)
    assert drift >= 0
    assert (drift == 0) == all(a == b for a, b in zip(before.tolist(), after.tolist(), strict=True))


def one_bit_more(value):
    return torch.nextafter(value, torch.tensor(torch.inf))


@given(st.floats(0, 1))
def test_never_is_100_percent_shown_for_less(share):
    assert (plots.percent(share) == "100.0") == (share == 1)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_numbers_are_always_legible_on_their_colour(rgb):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    colour = "#{:02x}{:02x}{:02x}".format(*rgb)
    low, high = sorted((luminance(colour), luminance(plots.ink_on(colour))))
    assert (high + 0.05) / (low + 0.05) >= 4.49


@given(st.integers(1, 60))
def test_no_two_tasks_have_one_colour(count):
    colours = plots.palette([f"task {i}" for i in range(count)])
    assert len(set(colours.values())) == count + 2


@examples(3, 8)
@given(name=st.text(min_size=1, max_size=90), title=st.text(max_size=20))
def test_the_page_is_always_well_formed_whatever_a_task_is_called(project, name, title):
    net = EideticNetwork.load(project / "run")
    kept = history.read(net).model_dump_json()
    net.metadata = {"report": {}, "history": history.History.model_validate_json(kept).model_dump()}
    renamed = renamed_first_task(net, name)
    shown = text_of(render(renamed, title=title))
    assert " ".join(plots.printable(name).split()) in shown


def renamed_first_task(net, name):
    """``net`` with another name for its first task, in its history too."""
    old = net.tasks[0].name

    def rename(value):
        if isinstance(value, dict):
            return {name if k == old else k: rename(v) for k, v in value.items()}
        if isinstance(value, list):
            return [rename(v) for v in value]
        return name if value == old else value

    net.metadata = rename(net.metadata)
    first = net.tasks[0]
    net.learned.tasks = (type(first)(name, first.owner, first.classes, first.probes), *net.tasks[1:])
    return net


def test_many_tasks_and_layers_are_drawn_too():
    colours = plots.palette([f"task {i}" for i in range(20)])
    layer = {"total": 256, **{f"task {i}": 5 for i in range(20)}, "router": 20, "free": 136}
    drawn = plots.capacity({f"blocks.{i}.attention.projection": layer for i in range(60)}, colours)
    assert drawn.count("blocks.") == 60
    ElementTree.fromstring(drawn)


def test_a_task_whose_old_data_is_gone_is_left_out_and_nothing_else_is(project):
    net, config = load(project / "run")
    data = {"fish": open_data(net, config)["fish"].test}
    recorder = history.Recorder(net, data)
    recorder.router_learned(evaluate(net, data), Routing())
    kept = history.read(net)
    assert set(kept.moments[-1].oracle) == set(kept.moments[-1].drift) == set(kept.held_out) == {"fish"}
    assert kept.routing.confusion[0] == [0, 0, 0]
    assert sum(kept.routing.confusion[1]) == kept.held_out["fish"]
    shown = text_of(render(net, title="fish"))
    assert "No pruning was recorded for: router" in shown
