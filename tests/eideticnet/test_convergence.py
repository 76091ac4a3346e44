"""Training that ended too early says so: in Python, on the command line and on the report page."""

import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from eideticnet import ConfigError, EideticNetwork, Training, UnderfitWarning, batches
from eideticnet.learn.convergence import Course
from eideticnet.runs import history
from eideticnet.runs.history import Recorder
from eideticnet.runs.report import render
from tests.support.small_networks import names, task_data
from tests.support.small_trunks import FEATURES

ADAM = partial(torch.optim.Adam, lr=1e-2)


def sines_and_squares(rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    phase = 2 * math.pi * torch.rand(rows, 1, generator=generator)
    y, wave = torch.arange(rows) % 2, torch.sin(torch.linspace(0, 4 * math.pi, 32) + phase)
    x = torch.where(y[:, None] == 1, wave.sign(), wave)
    return (x + 0.3 * torch.randn(rows, 32, generator=generator))[:, None], y


def wave_net(x):
    trunk = nn.Sequential(
        nn.Conv1d(1, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 8)
    )
    return EideticNetwork(trunk, x[:2])


def plain_net():
    return EideticNetwork(nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU()), torch.zeros(2, FEATURES))


def test_training_that_stopped_while_its_loss_was_that_of_guessing_warns_and_is_on_the_report_page():
    x, y = sines_and_squares()
    net, loader = wave_net(x), batches(x, y)
    recorder = Recorder(net, {"wave": loader})
    with pytest.warns(UnderfitWarning, match=r"^wave: training accuracy is 0\.\d+ with a loss of .*patience"):
        net.train_task("wave", loader, ["sine", "square"], report=recorder.event)
    recorder.task_learned("wave", 0.01)
    doubt = history.read(net).doubts["wave"]
    assert doubt.startswith("training accuracy is 0.")
    assert f"wave: {doubt}." in render(net, title="waves")


CONTRADICTION = (torch.arange(40)[:, None] // 20 * torch.ones(FEATURES), torch.arange(40) % 2)
"""Two inputs, each as often under one label as under the other."""


def test_training_in_which_nothing_rose_does_not_say_that_it_was_rising():
    x, y = CONTRADICTION
    with pytest.warns(UnderfitWarning, match="its patience was not at an end when max_epochs = 3 ended it"):
        plain_net().train_task("t", batches(x, y), names(2), training=Training(ADAM, max_epochs=3))


def test_training_that_was_ended_by_max_epochs_says_so():
    with pytest.warns(UnderfitWarning, match="when max_epochs = 1 ended it; raise max_epochs"):
        plain_net().train_task("t", batches(*task_data(0)), names(2), training=Training(max_epochs=1))


def test_a_task_that_is_learned_is_not_doubted_and_neither_is_one_that_was_taught_longer():
    x, y = torch.randn(60, FEATURES, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    x[:, 0] = 4.0 * y
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnderfitWarning)
        plain_net().train_task("t", batches(x, y), names(2), training=Training(ADAM, settle_patience=3))


def test_labels_that_can_not_be_learned_are_named_however_long_training_was():
    x, y = CONTRADICTION
    with pytest.warns(UnderfitWarning, match=r"accuracy is 0\.500"):
        plain_net().train_task("t", batches(x, y), names(2), training=Training(ADAM, settle_patience=2))


@pytest.mark.parametrize(
    ("accuracy", "losses", "flat", "said"),
    [
        (0.995, [0.5, 0.5], 0, ""),
        (0.97, [0.2, 0.2, 0.2], 0, "still rising when max_epochs = 3"),
        (0.97, [0.2, 0.2, 0.2], 1, "patience was not at an end when max_epochs = 3"),
        (0.97, [0.2, 0.12, 0.1], 2, "fell from 0.120 to 0.100 in the last 2 epochs"),
        (0.97, [0.2, 0.1, 0.099], 2, ""),
        (0.85, [0.2, 0.2, 0.2], 2, "far from converged"),
        (0.97, [1.2, 1.2, 1.2], 2, "where guessing has 1.386"),
    ],
)
def test_what_speaks_for_more_training(accuracy, losses, flat, said):
    doubt = Course(accuracy, losses, flat, classes=4, patience=2, max_epochs=3).doubt
    assert said in doubt
    assert bool(doubt) == bool(said)


def rates_of(training):
    """The learning rate of each epoch of a task's first phase, and the one afterwards."""
    seen, made = [], []

    def factory(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
        made.append(optimizer)
        return optimizer

    x, y = task_data(0)
    training = replace(training, optimizer=factory, patience=99, settle_patience=99, max_epochs=4)
    plain_net().train_task("t", batches(x, y, len(y)), names(2), training=training, pruning=None)
    return seen[:4], made[0].param_groups[0]["lr"]


def test_a_rate_that_is_annealed_falls_by_half_a_cosine_in_each_phase_and_is_put_back():
    rates, after = rates_of(Training(lr_schedule="cosine"))
    assert rates == [0.5 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert after == 0.5
    assert rates_of(Training())[0] == [0.5] * 4


def test_an_annealed_phase_is_not_said_to_have_ended_too_early():
    course = Course(0.97, [0.3, 0.2, 0.15, 0.14], 0, 2, 3, 4)
    assert "ended it" in course.doubt
    assert "ended it" not in replace(course, annealed=True).doubt


def test_a_schedule_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="lr_schedule 'linear': use constant, cosine"):
        Training(lr_schedule="linear")
