"""Streams of experiences, as Avalanche's benchmarks have them, are learned task after task."""

import subprocess

import pytest
import torch
from torch.utils.data import Dataset

from eideticnet import EideticNetwork, Pruning, Training, evaluate, stream_tasks
from eideticnet.errors import DataError
from eideticnet.models import mlp
from tests.support.clone import ROOT
from tests.support.small_networks import task_data

TRAINING = Training(lambda weights: torch.optim.Adam(weights, lr=0.02), patience=2, max_epochs=6)
QUICK = {"training": TRAINING, "pruning": Pruning(step=0.5, threshold=0.1)}


class Rows(Dataset):
    """As ``AvalancheDataset`` with task labels: x, y, t."""

    def __init__(self, x, y, task):
        self.x, self.targets, self.task = x, y.tolist(), task

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return self.x[row], self.targets[row], self.task


class Experience:
    """What is read of ``avalanche.benchmarks.DatasetExperience``."""

    def __init__(self, number, dataset, classes):
        self.current_experience, self.dataset, self.classes_in_this_experience = number, dataset, classes


def experiences(*labels):
    found = []
    for number, classes in enumerate(labels):
        x, y = task_data(number + 1, len(classes), 40)
        found.append(Experience(number, Rows(x, torch.tensor(classes)[y], number), set(classes)))
    return found


def test_a_stream_trains_a_network_that_finds_its_experiences():
    stream = experiences([5, 2], [7, 9, 0])
    net = EideticNetwork(mlp(6, (24, 24)), torch.zeros(2, 6))
    tasks = list(stream_tasks(stream, batch_size=16))
    for name, loader, classes in tasks:
        net.train_task(name, loader, classes, **QUICK)
    assert [(t.name, t.classes) for t in net.tasks] == [
        ("experience 0", ("2", "5")),
        ("experience 1", ("0", "7", "9")),
    ]
    net.fit_router({task.name: task.loader for task in tasks}, training=TRAINING)
    reports = evaluate(net, {task.name: task.loader for task in stream_tasks(stream)})
    assert all(report.oracle > 0.7 for report in reports.values())
    x = stream[1].dataset.x
    named = zip(net.names(net(x)), stream[1].dataset.targets, strict=True)
    right = torch.tensor([found.label == str(y) for found, y in named])
    assert float(right.double().mean()) == pytest.approx(reports["experience 1"].routed)  # as many of each


def test_a_rest_of_a_stream_keeps_its_numbers_and_classes_may_be_told_by_targets_alone():
    stream = experiences([0, 1], [2, 3])[1:]
    del stream[0].classes_in_this_experience
    ((name, loader, classes),) = stream_tasks(stream)
    assert (name, classes) == ("experience 1", ("2", "3"))
    assert sorted(torch.cat([y for _, y in loader]).unique().tolist()) == [0, 1]


class Benchmark:
    train_stream = ()


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (Benchmark(), "stream is Benchmark, no stream of experiences; its train_stream is one"),
        ([3], "experience 0 is int, without a dataset of rows"),
        ([Experience(4, [(0.0, 1)], None)], "experience 4 has neither classes_in_this_experience nor"),
        ([Experience(0, [(0.0, 1)], ["cat"])], r"experience 0 has classes \['cat'\]; expected whole numbers"),
        ([Experience(0, [(0.0, 1)], 2)], "experience 0 has classes 2; expected whole numbers"),
        ([Experience(0, [(0.0,)], [1])], "experience 0: its dataset's rows are not x, y and anything else"),
    ],
)
def test_what_is_no_stream_is_said(stream, said):
    with pytest.raises(DataError, match=said):
        [list(task.loader) for task in stream_tasks(stream)]
    with pytest.raises(DataError, match="batch_size"):
        list(stream_tasks([], batch_size=0))


def test_a_label_that_the_experience_does_not_name_is_said():
    stream = experiences([0, 1])
    stream[0].classes_in_this_experience = [0, 2]
    ((name, loader, classes),) = stream_tasks(stream)
    net = EideticNetwork(mlp(6, (8,)), torch.zeros(2, 6))
    with pytest.raises(DataError, match="experience 0: a row has label 1; its classes are 0, 2"):
        net.train_task(name, loader, classes)


@pytest.mark.slow
def test_an_avalanche_benchmark_trains_a_network(tmp_path):
    python = ROOT / ".venv-baselines/bin/python"
    if not python.exists():
        pytest.skip("`make .venv-baselines/installed` makes the environment")
    command = [str(python), str(ROOT / "examples/avalanche_stream.py")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 5
    assert all(float(line.rpartition(" ")[2]) > 0.9 for line in ended.stdout.splitlines())
