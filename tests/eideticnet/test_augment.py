"""Training batches may be changed at random, by names; held-out rows never are."""

import numpy as np
import pytest
import torch

from eideticnet import DataError, EideticNetwork, Inputs, Journal, Pruning, Training
from eideticnet.data.rows import Rows
from eideticnet.errors import ConfigError
from eideticnet.models import mlp
from eideticnet.runs.config import TaskConfig, read_tasks
from eideticnet.runs.sources import open_task
from tests.support.small_networks import task_data

X, Y = task_data(1, 3, 60)
CLASSES = ("cod", "eel", "ray")
CODE = """
import torch
from torch.utils.data import Dataset

def noisy(x, scale=0.01):
    return x.add_(scale * torch.randn(x.shape))

def fewer(x):
    return x[1:]

def broken(x):
    return x + 1 / 0

class Drawn(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, row):
        return torch.rand(6, generator=torch.Generator().manual_seed(row)), row % 3

def dataset():
    return Drawn()
"""


@pytest.fixture
def opened(tmp_path):
    """Opens a task whose batches are changed by a function of ``CODE``."""
    np.savez(tmp_path / "fish.npz", x=X.numpy(), y=Y.numpy())
    (tmp_path / "changing.py").write_text(CODE)

    def call(augment="changing:noisy", data="fish.npz", more=""):
        (tmp_path / "tasks.toml").write_text(
            f'[[tasks]]\nname = "fish"\nclasses = {list(CLASSES)}\ndata = "{data}"\n'
            f'augment = "{augment}"\n{more}'
        )
        (task,) = read_tasks(tmp_path / "tasks.toml")
        return open_task(task, Inputs((6,)), seed=0, held_out=0.25, batch_size=16, validation=0.2)

    return call


def rows(loader, *names):
    return torch.cat([x for x, _ in Rows("fish", loader, CLASSES, Inputs((6,))).batches(*names)])


def is_of(some, whole):
    return all(any(torch.equal(row, other) for other in whole) for row in some)


def test_training_batches_change_with_each_pass_by_its_name_and_what_is_held_out_never_does(opened):
    data = opened()
    first, again, other = (rows(data.train, "epoch", n) for n in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (36, 6)
    assert not is_of(first, X)
    assert (first.unsqueeze(1) - X).abs().amax(2).amin(1).max() < 0.1
    assert is_of(rows(data.test), X)
    assert is_of(rows(data.validation), X)
    assert is_of(data.first_inputs(8), X)
    assert is_of(data.train.dataset.tensors[0], X)  # a change in place changes the batch alone


def test_a_job_on_changed_batches_that_was_interrupted_ends_with_the_same_bits(opened, tmp_path):
    def learn(journal=None, stop=None):
        net = EideticNetwork(mlp(6, (8,)), X[:2], inputs=Inputs((6,)))
        events = []

        def report(event):
            events.append(event)
            if len(events) == stop:
                raise KeyboardInterrupt

        training = Training(patience=1, settle_patience=1, max_epochs=3)
        pruning = Pruning(step=0.5, recovery_epochs=1)
        try:
            net.train_task(
                "fish",
                opened().train,
                CLASSES,
                training=training,
                pruning=pruning,
                report=report,
                journal=journal,
            )
        except KeyboardInterrupt:
            return None, events
        return net.digests(), events

    whole, events = learn()
    journal = tmp_path / "journal.safetensors"
    assert learn(Journal(journal, interval=0), stop=4)[0] is None
    told = []
    found, rest = learn(Journal(journal, say=told.append))
    assert found == whole
    assert told == ["going on after 2 epochs that were done before the interruption"]
    assert len(rest) <= len(events)


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ("changing:fewer", r"task 'fish': augment made \(15, 6\) of \(16, 6\); return as many rows"),
        ("changing:broken", r"changing.py:\d+: ZeroDivisionError: division by zero"),
    ],
)
def test_a_change_that_fails_is_blamed_on_its_line(opened, augment, words):
    with pytest.raises(DataError, match=words):
        rows(opened(augment).train)


def test_a_change_that_is_not_there_or_not_for_these_rows_is_refused(opened):
    with pytest.raises(ConfigError, match="changing has no 'noise'; did you mean 'noisy'"):
        opened("changing:noise")
    with pytest.raises(DataError, match="and data is a Dataset; let that"):
        opened(data="changing:dataset")
    assert TaskConfig(name="fish", classes=CLASSES, data="fish.npz").augment is None


def test_what_a_change_is_called_with_stands_beside_it(opened):
    still = rows(opened(more="augment_arguments = { scale = 0.0 }").train)
    assert is_of(still, X)
