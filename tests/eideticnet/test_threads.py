"""Small layers learn on one thread, large ones on those that there are, and nothing else is touched."""

import dataclasses

import pytest
import torch
from torch import nn

from eideticnet import EideticNetwork, Journal
from eideticnet.learn import threads
from tests.support.small_networks import LIGHT, QUICK, names, task_loader
from tests.support.small_trunks import FEATURES


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_while_learning(training=QUICK, journal=None, stop=None):
    """The numbers of threads that torch had after each epoch."""
    net = EideticNetwork(nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU()), torch.zeros(2, FEATURES))
    found = []

    def report(event):
        found.append(torch.get_num_threads())
        if len(found) == stop:
            raise KeyboardInterrupt

    options = {"training": training, "pruning": LIGHT, "report": report, "journal": journal}
    net.train_task("a", task_loader(0), names(2), **options)
    return set(found)


@pytest.mark.parametrize(
    ("small", "asked", "used"), [(2**27, None, 1), (0, None, 2), (2**27, 2, 2), (0, 1, 1)]
)
def test_a_job_has_the_threads_that_its_layers_are_worth_or_that_were_asked_for(
    two_threads, monkeypatch, small, asked, used
):
    monkeypatch.setattr(threads, "SMALL", small)
    assert threads_while_learning(dataclasses.replace(QUICK, threads=asked)) == {used}
    assert torch.get_num_threads() == 2


def test_an_interrupted_job_goes_on_with_the_threads_that_it_began_with(two_threads, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "SMALL", 0)
    journal = Journal(tmp_path / "journal", interval=0)
    with pytest.raises(KeyboardInterrupt):
        threads_while_learning(journal=journal, stop=3)
    assert torch.get_num_threads() == 2
    told = []
    journal = Journal(tmp_path / "journal", interval=0, say=told.append)
    assert threads_while_learning(dataclasses.replace(QUICK, threads=1), journal) == {2}
    assert "going on after" in told[0]


def test_what_is_counted_is_the_largest_operation():
    counter = threads._Counter()
    with counter:
        torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2))(torch.zeros(10, 6))
        torch.nn.Conv1d(2, 4, 3)(torch.zeros(1, 2, 5))
    assert counter.most == 10 * 6 * 8
