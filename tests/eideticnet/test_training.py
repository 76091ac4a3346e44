"""An epoch with batches of one row, which some batch norms can't learn from; what accuracy is measured on."""

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler

from eideticnet import DataError, EideticNetwork, Inputs, batches
from eideticnet.learn.training import Classify, Job, accuracy, train_epoch
from tests.support.small_networks import LIGHT, QUICK, names

ONE_VALUE = {
    "of rows": lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.BatchNorm1d(6)),
    "of images of one position": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 4), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()
    ),
}
SEVERAL_VALUES = {
    "of images": lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten()),
    "of series": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 6, 13), nn.BatchNorm1d(6), nn.Flatten()),
}


def images(rows, batch_size):
    x = torch.randn(rows, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return batches(x, torch.arange(rows) % 2, batch_size)


def steps(trunk, rows, batch_size):
    """On how many batches the norm of ``trunk`` is trained in one epoch."""
    net = nn.Sequential(trunk, nn.LazyLinear(2))
    net.eval()(torch.zeros(1, 2, 4, 4))
    loader, inputs = images(rows, batch_size), Inputs((2, 4, 4))
    job = Job("t", loader, Classify(2), inputs, QUICK, (0,), lambda module, x: module(x))
    train_epoch(job, net, QUICK.optimizer(net.parameters()), "epoch")
    return int(next(m for m in trunk if hasattr(m, "num_batches_tracked")).num_batches_tracked)


@pytest.mark.parametrize("norm", ONE_VALUE)
def test_a_row_left_over_is_skipped_by_a_norm_that_sees_one_value_of_each_channel(norm):
    assert steps(ONE_VALUE[norm](), rows=9, batch_size=4) == 2


@pytest.mark.parametrize("norm", SEVERAL_VALUES)
def test_a_norm_over_several_positions_learns_from_one_row(norm):
    assert steps(SEVERAL_VALUES[norm](), rows=9, batch_size=4) == 3
    assert steps(SEVERAL_VALUES[norm](), rows=5, batch_size=1) == 5


@pytest.mark.parametrize("norm", ONE_VALUE)
def test_batches_of_which_the_norm_can_learn_from_none_are_refused(norm):
    with pytest.raises(DataError, match="two rows or more"):
        steps(ONE_VALUE[norm](), rows=5, batch_size=1)


@pytest.mark.parametrize("norm", ONE_VALUE)
def test_a_task_with_a_row_left_over_is_learned(norm):
    loader = images(9, 4)
    net = EideticNetwork(ONE_VALUE[norm](), loader.dataset.tensors[0][:2])
    net.train_task("t", loader, names(2), training=QUICK, pruning=LIGHT)
    assert net.tasks[0].name == "t"


def rows_measured(monkeypatch, most, loader):
    """The classes on which accuracy is measured, twice, where ``most`` rows are enough."""
    monkeypatch.setattr("eideticnet.learn.training.MEASURED", most)
    job = Job("t", loader, Classify(10), Inputs((1,)), QUICK, (0,), lambda module, x: module(x))
    module, measured = nn.Linear(1, 10), []
    module.register_forward_hook(lambda module, args, out: measured.append(args[0][:, 0].tolist()))
    accuracy(job, module)
    once = sum(measured, [])
    accuracy(job, module)
    assert sum(measured, []) == 2 * once
    return once


@pytest.mark.parametrize("kind", ["shuffled", "by class", "a list by class", "a generator's"])
def test_accuracy_is_measured_on_all_rows_or_on_the_same_bounded_share_with_all_classes(monkeypatch, kind):
    x, y = torch.arange(600.0)[:, None], torch.arange(600) // 60
    loader = {
        "shuffled": batches(x, y, 8),
        "by class": batches(x, y, 8, SequentialSampler(x)),
        "a list by class": list(zip(x.split(8), y.split(8), strict=True)),
        "a generator's": Passes(x, y),
    }[kind]
    assert sorted(rows_measured(monkeypatch, 600, loader)) == x[:, 0].tolist()
    some = rows_measured(monkeypatch, 120, loader)
    assert 120 <= len(some) <= 128
    assert len({int(row) // 60 for row in some}) == 10


class Passes:
    """Batches that only a pass tells."""

    def __init__(self, x, y):
        self.pairs = x, y

    def __iter__(self):
        yield from zip(*(t.split(8) for t in self.pairs), strict=True)
