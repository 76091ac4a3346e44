"""Two calls that change one network, or one checkpoint, at the same time: the second one is refused."""

import copy
import pickle
import threading
from contextlib import contextmanager

import pytest
import torch

from eideticnet import BusyError, CheckpointError, EideticNetwork, Journal, Training
from eideticnet.learned import Learned
from tests.support.small_networks import LIGHT, QUICK, fit, held_out, names, task_loader, trained
from tests.support.waiting import until


def learn(net, name="new", seed=5, **options):
    net.train_task(name, task_loader(seed), names(2), **{"training": QUICK, "pruning": LIGHT} | options)


CHANGES = {
    "train_task": learn,
    "revise_task": lambda net: net.revise_task("task 0", task_loader(0), training=QUICK),
    "fit_router": fit,
    "widen": lambda net: net.widen(0.5),
    "answer_with": lambda net: net.answer_with("task 0", 0),
    "moving": lambda net: net.half(),
    "load_state_dict": lambda net: net.load_state_dict(net.state_dict()),
}


@contextmanager
def learning_in_a_thread(net):
    """While the context lasts, another thread is in the midst of ``train_task``."""
    begun, go_on, errors = threading.Event(), threading.Event(), []

    def wait(event):
        begun.set()
        go_on.wait()

    def work():
        try:
            learn(net, "slow", 6, report=wait)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="teacher")
    thread.start()
    until(lambda: begun.is_set() or errors)
    try:
        yield
    finally:
        go_on.set()
        thread.join()
    assert errors == []


def test_whatever_changes_a_network_is_refused_while_another_thread_does_and_nothing_else_is(tmp_path):
    net, x = trained(2), held_out()
    before = [net(x), net.task_logits(x, "task 0")]
    with learning_in_a_thread(net):
        seen = []
        for name, change in CHANGES.items():
            with pytest.raises(BusyError, match=rf"^{name}.*by train_task of 'slow' in thread 'teacher'"):
                change(net)
        with pytest.raises(BusyError):
            learn(net, report=seen.append)
        assert seen == []
        assert all(torch.equal(a, b) for a, b in zip(net(x), before[0], strict=True))
        assert torch.equal(net.task_logits(x, "task 0"), before[1])
        assert net.capacity()["layers.0"]["total"] == 24
        net.save(tmp_path)
        assert EideticNetwork.load(tmp_path).digests() == net.digests()
        for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            learn(copied)
            assert [t.name for t in copied.tasks] == ["task 0", "task 1", "new"]
    assert [t.name for t in net.tasks] == ["task 0", "task 1", "slow"]
    learn(net)
    assert [t.name for t in net.tasks] == ["task 0", "task 1", "slow", "new"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_called_while_a_task_is_learned_is_refused_and_leaves_the_network_as_it_was(change):
    net = trained(2)
    before, program = net.learned, net.program
    with pytest.raises(BusyError, match="by train_task of 'slow'"):
        learn(net, "slow", report=lambda event: CHANGES[change](net))
    with pytest.raises(BusyError, match="by fit_router in"):
        net.fit_router(
            {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)},
            training=QUICK,
            report=lambda event: CHANGES[change](net),
        )
    assert (net.learned, net.program) == (before, program)
    learn(net)


def test_an_optimizer_and_a_dataset_may_not_change_the_network_either():
    net = trained(1)

    def factory(parameters):
        net.widen(1.0)
        return torch.optim.Adam(parameters)

    class Widening(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            net.widen(1.0)

    with pytest.raises(BusyError):
        learn(net, training=Training(factory))
    with pytest.raises(BusyError):
        net.train_task("b", torch.utils.data.DataLoader(Widening()), names(2))
    assert net.program.groups["layers.0"] == 24


def test_one_journal_is_not_kept_of_two_jobs_at_once(tmp_path):
    journal, other = Journal(tmp_path / "journal"), trained(1)
    with pytest.raises(BusyError, match="this journal is being changed by a training job kept in"):
        learn(trained(1), journal=journal, report=lambda event: learn(other, journal=journal))
    learn(other, journal=journal)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_error_the_network_may_be_changed_again(error):
    net = trained(1)

    def stop(event):
        raise error

    with pytest.raises(error):
        learn(net, report=stop)
    learn(net)


@pytest.mark.parametrize("part", ["learned", "program", "inputs", "seed"])
def test_what_was_put_in_place_of_a_part_while_a_task_was_learned_is_not_overwritten(part):
    net = trained(1)
    others = {"learned": Learned(), "program": net.program.widened({}), "inputs": copy.copy(net.inputs)}
    other = others.get(part, 12345)
    with pytest.raises(BusyError, match="something replaced a part"):
        learn(net, report=lambda event: setattr(net, part, other))
    assert getattr(net, part) is other


def test_a_save_that_would_lose_another_ones_task_is_refused_and_one_that_loses_nothing_is_not(tmp_path):
    first = trained(1)
    first.save(tmp_path)
    second = EideticNetwork.load(tmp_path)
    learn(first, "mine")
    learn(second, "theirs")
    first.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"saved by another since.*task 'mine' would be lost"):
        second.save(tmp_path)
    assert [t.name for t in EideticNetwork.load(tmp_path).tasks] == ["task 0", "mine"]
    second.save(tmp_path / "elsewhere")
    third = EideticNetwork.load(tmp_path)
    learn(third, "third")
    third.save(tmp_path)
    first.widen(0.5)
    with pytest.raises(CheckpointError, match="'third' would be lost"):
        first.save(tmp_path)
    fourth = EideticNetwork.load(tmp_path)
    third.save(tmp_path)
    fourth.widen(0.5)
    fourth.save(tmp_path)
    trained(1).save(tmp_path)  # one that never saw the folder begins anew there


def test_a_checkpoint_that_is_written_again_and_again_can_be_read_at_any_time(tmp_path):
    net, done = trained(2), threading.Event()
    other = trained(2, seed=3)
    copy.deepcopy(net).save(tmp_path)

    def write():
        while not done.is_set():
            for one in (net, other):
                copy.deepcopy(one).save(tmp_path)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for thread in writers:
        thread.start()
    try:
        found = {EideticNetwork.load(tmp_path).seed for _ in range(40)}
    finally:
        done.set()
        for thread in writers:
            thread.join()
    assert found <= {0, 3}
