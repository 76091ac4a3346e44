"""The page of experiments shows what was found beside what the paper says, and what was not run."""

import json
from pathlib import Path

import pytest

from eideticnet.experiments import results, settings, tables
from eideticnet.experiments.measured import Measured
from eideticnet.experiments.pictures import curves
from eideticnet.experiments.results import Result
from tests.support.data_sets import write_experiment

SETTINGS = 'seeds = [0, 1]\nsweep = { "pruning.score" = ["l1", "l2"] }\nbaselines = ["joint", "replay"]\n'
PAPER = """
[experiment.paper]
where = "Table 7"
[experiment.paper.settings."score=l1"]
oracle = 91.5
routed_by_class = [1.0, 2.0, 3.0, 4.0]
oracle_by_class = [5.0, 6.0, 7.0, 8.0]
"""


def accuracy(*shares):
    names = ["0 or 1", "2 or 3"]
    classes = {
        name: {str(2 * i): s, str(2 * i + 1): s}
        for i, (name, s) in enumerate(zip(names, shares, strict=True))
    }
    return {"mean": sum(shares) / 2, "tasks": dict(zip(names, shares, strict=True)), "classes": classes}


def measured(shift, saw="all"):
    return Measured(
        oracle=accuracy(0.9 + shift, 0.8),
        task=accuracy(0.8, 0.7),
        routed=accuracy(0.7, 0.6),
        forgetting={
            "learned": ["0 or 1", "2 or 3", "router"],
            "lines": {"0 or 1": [0.9] * 3, "2 or 3": [None, 0.8, 0.8]},
            "compared": 3,
            "changed": [],
        },
        router="taps",
        saw=saw,
        bytes={"checkpoint": 1, "network": 2_000_000, "memory": 500_000, "moments": 0},
        multiply_adds={"answer": 3, "router": 1, "plain": 4, "share": 0.75},
        seconds={"0 or 1": 10.0, "2 or 3": 5.0, "router": 1000.0},
        frozen=0.25,
        neurons={"0 or 1": 0.2, "2 or 3": 0.05},
        doubts={},
        clock="processor",
        device="a chip",
        threads=1,
    )


BASELINE = {
    "given": {"mean": 0.95},
    "found": {"mean": 0.5},
    "data_seen": "memory 5",
    "multiply_adds": 1.0,
    "network_bytes": 1_000_000,
    "memory_bytes": 20_000,
    "seconds": 3.0,
    "clock": "processor",
}


RESULT = Result(
    name="tiny",
    title="Tiny",
    shortened="",
    selection=False,
    configuration={},
    sweep={},
    versions={"torch": "2.13.0"},
    device="a chip",
    runs={"score=l1": {"0": measured(0.0), "1": measured(0.02)}},
    baselines={"replay": {"0": BASELINE}},
)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The page's section of a small experiment, with runs of one setting, by its lines."""
    file = write_experiment(tmp_path, SETTINGS + PAPER)
    file.write_text(f"memory = 20\n{file.read_text()}")
    plan = settings.read(str(file))
    monkeypatch.setattr(settings, "names", lambda: [str(plan.file)])
    monkeypatch.setattr(results, "FOLDER", tmp_path)

    def show(**more):
        results.write(RESULT.model_copy(update=more), tmp_path)
        pages = tables.pages()
        return pages, pages["experiments.md"].splitlines()

    return show


def test_what_was_run_stands_beside_the_papers_figures_and_the_rest_says_not_run(shown):
    pages, lines = shown()
    expected = [
        "| score=l1 | 85.50 ± 0.71 | 75.00 ± 0.00 | 65.00 ± 0.00 | all: multi-task, routed | 0.75 | 2.00 + "
        "0.50 | 25 % | 1,015 |",
        "| the paper (Table 7) | 91.50 |  |  | | | |  | |",
        "| score=l2 | not run | | | | | | | |",
        "| joint: all classes at once | not run | | | | | | | |",
        "| replay | 95.00 |  | 50.00 | memory 5 | 1.00 | 1.00 + 0.02 |  | 3 |",
    ]
    assert [line for line in lines if line in expected] == expected
    assert "| 2 or 3 | 80.00 | 60.00 | 5 |" in lines
    assert "| 1 | 91.00 | 70.00 | 6.00 | 2.00 |" in lines
    assert any("compared 6 times, and none differed" in line for line in lines)
    assert pages["images/experiment_tiny.svg"].startswith("<svg")


def test_what_a_router_saw_is_told_in_words_that_say_what_it_may_be_compared_with(shown):
    for saw, words in (("memory 6", "memory 6"), ("none", "none"), ("all", "all: multi-task, routed")):
        _, lines = shown(runs={"score=l1": {"0": measured(0.0, saw)}})
        (row,) = [line for line in lines if line.startswith("| score=l1 |")]
        assert row.split(" | ")[4] == words


def test_a_selection_shows_held_out_accuracies_and_what_was_chosen(shown, tmp_path):
    write_experiment(tmp_path, "select = true\n" + SETTINGS.partition("baselines")[0])
    _, lines = shown(selection=True, chosen="score=l1")
    assert "| score=l1 | 85.50 ± 0.71 | 25 % | chosen |" in lines
    assert "| score=l2 | not run | | |" in lines
    assert not any("multi-task" in line for line in lines[lines.index("## Tiny") :])


def test_an_experiment_without_any_result_says_so_in_every_row(shown):
    _, lines = shown(runs={}, baselines={})
    rows = [
        line
        for line in lines[lines.index("## Tiny") :]
        if line.startswith(("| score", "| joint", "| replay"))
    ]
    assert len(rows) == 4
    assert all("| not run |" in row for row in rows)


def test_every_committed_result_can_be_read_and_is_that_of_an_experiment():
    for file in Path(results.FOLDER).glob("*.json"):
        result = results.read(file)
        assert result.name == file.stem in settings.names()
        for runs in result.runs.values():
            for run in runs.values():
                assert run.forgetting.changed == []
                assert all(len(set(line[line.count(None) :])) == 1 for line in run.forgetting.lines.values())
        assert json.loads(file.read_text())["device"]


def test_other_methods_are_drawn_beside_the_network_after_each_task(shown):
    forgets = BASELINE | {"given": {"mean": 0.5, "matrix": [[0.9, None], [0.2, 0.8]]}}
    pages, lines = shown(baselines={"replay": {"0": forgets}, "joint": {"0": BASELINE}})
    result = results.read(results.FOLDER / "tiny.json")
    expected = {"EideticNet": [0.9, 0.85], "replay": [0.9, 0.5]}  # joint training has no order
    assert {name: pytest.approx(curve) for name, curve in curves(result).items()} == expected
    assert "images/experiment_tiny_compared.svg" in pages
    assert any("(images/experiment_tiny_compared.svg)" in line for line in lines)
    assert ">replay</text>" in pages["images/experiment_tiny_compared.svg"]


def test_a_class_that_stands_in_two_tasks_is_told_with_its_task():
    run = measured(0.0)
    classes = {"first": {"cat": 0.5, "dog": 0.25}, "then": {"dog": 1.0, "cow": 0.75}}
    both = run.oracle.model_copy(update={"classes": classes})
    run = run.model_copy(update={"oracle": both, "routed": both})
    pairs = [(task, name) for task, of in classes.items() for name in of]
    lines = list(tables._classes(pairs, [run], settings.Published()))
    assert [line.split(" | ")[0] for line in lines[3:7]] == [
        "| cat",
        "| dog of first",
        "| dog of then",
        "| cow",
    ]
