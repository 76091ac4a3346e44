"""An epoch with batches of one row, which some batch norms can't learn from."""

import pytest
import torch
from nets import LIGHT, QUICK, names
from torch import nn

from eideticnet import DataError, EideticNetwork, Inputs, batches
from eideticnet.training import Classify, Lesson, train_epoch

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
    lesson = Lesson("t", loader, Classify(2), inputs, QUICK, (0,), lambda module, x: module(x))
    train_epoch(lesson, net, QUICK.optimizer(net.parameters()), "epoch")
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
