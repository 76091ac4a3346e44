"""The masked network that training is compared with does what the paper says, as often as the blocks do."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import masked
from benchmarks.problems import digits
from benchmarks.train import TASKS
from eideticnet import Pruning, Training


@pytest.fixture(scope="module")
def learned():
    """Digits in five tasks, by blocks and by the masked network; its logits on the day of each task."""
    training = Training(partial(torch.optim.Adam, lr=0.01), patience=3, settle_patience=1, max_epochs=3)
    pruning = Pruning(step=0.5, threshold=0.02, recovery_epochs=1, min_width=4)
    problem = replace(digits(), hidden=(64, 64), training=training, pruning=pruning)
    split, logits = problem.split(0), []
    x = problem.inputs.normalise(split.test.x)

    def note(job, net, course, take=masked._take):
        take(job, net, course)
        logits.append(net.logits(x, len(net.heads) - 1).detach())

    with pytest.MonkeyPatch.context() as patch:
        _, courses = masked.blocks(problem, 0, split)
        patch.setattr(masked, "_take", note)
        _, net = masked.masked(problem, 0, split, courses)
    return courses, net, x, logits, split


def test_no_earlier_logits_of_the_masked_network_ever_change(learned):
    _, net, x, logits, _ = learned
    assert len(logits) == len(TASKS)
    assert all(torch.equal(net.logits(x, task), before) for task, before in enumerate(logits))


def test_the_masked_network_keeps_as_many_neurons_as_the_blocks_and_learns_each_task(learned):
    courses, net, _, logits, split = learned
    owned = [[int((owner == task).sum()) for owner in net.owners] for task in range(len(TASKS))]
    assert owned == [course.kept for course in courses]
    assert any(not course.recovered(i) for course in courses for i in range(len(course.trials)))
    for (first, second), of in zip(TASKS, logits, strict=True):
        mine = (split.test.y == first) | (split.test.y == second)
        right = of[mine].argmax(1) + first == split.test.y[mine]
        assert float(right.double().mean()) > 0.8


def test_no_task_reads_what_is_later_or_pruned(learned):
    _, net, *_ = learned
    readers = [*zip(net.layers[1:], net.owners[:-1], net.owners[1:], strict=True)]
    for layer, before, own in readers:
        later = before[None, :] > own[:, None]
        assert not layer.weight[later & (own < masked.FREE)[:, None]].any()
    for task, head in enumerate(net.heads):
        assert not head.weight[:, net.owners[-1] > task].any()


def test_the_course_of_the_blocks_is_counted(learned):
    courses, *_ = learned
    assert all(course.train == 3 and 1 <= course.settle <= 3 for course in courses)
    assert all(0 <= epochs <= 1 for course in courses for _, epochs in course.trials)
    assert all(course.epochs >= course.train + course.settle for course in courses)
