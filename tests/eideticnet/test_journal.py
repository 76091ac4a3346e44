"""An interrupted job goes on where it was, and ends with the bits of one never interrupted."""

import json
import resource
import signal
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import DataError, EideticNetwork, Journal, Pruning, Training
from eideticnet.learn.described import described
from tests.support.example_counts import examples
from tests.support.forked import Forked
from tests.support.killed_jobs import OPTIMIZERS, STEPS, killed, learn
from tests.support.small_networks import names, task_loader, untrained
from tests.support.small_trunks import Mlp

ROOT = Path(__file__).parents[2]
PRUNINGS = {
    "plain": Pruning(step=0.4, threshold=0.05, recovery_epochs=2),
    "taylor": Pruning("taylor", 0.3, 0.02, 2, lr_factor=0.5),
    "bisection": Pruning("hybrid", 0.2, 0.02, 2, schedule="bisection"),
    "tries": Pruning("random", 0.9, 0.0, 1),
    "budget": Pruning("l1", 0.3, 0.0, 1, budget=0.3),
}


def bits(net):
    """All tensors, and what they depend on."""
    return net.digests(), {o: net.learned.block(o).fingerprint for o in net.learned.blocks}


@cache
def uninterrupted(optimizer, pruning, routing):
    events = []
    net = learn(None, optimizer, PRUNINGS[pruning], events.append, routing=routing)
    return bits(net), STEPS[0], events


@examples(3, 7)
@given(
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    pruning=st.sampled_from(list(PRUNINGS)),
    routing=st.booleans(),
    at=st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_a_job_that_is_killed_at_any_moment_ends_with_the_same_bits(
    optimizer, pruning, routing, at, tmp_path_factory
):
    expected, steps, events = uninterrupted(optimizer, pruning, routing)
    path = tmp_path_factory.mktemp("job") / "journal.safetensors"
    for share in sorted(at):
        after = int(share * (len(events) - 1))
        assert killed(path, after, optimizer=optimizer, pruning=PRUNINGS[pruning], routing=routing)
    again, lines = [], []
    journal = Journal(path, interval=0.0, say=lines.append)
    net = learn(journal, optimizer, PRUNINGS[pruning], again.append, routing=routing)
    assert bits(net) == expected
    assert again == events
    # What was done is not done again: an event comes after its epoch's snapshot.
    done = max(int(share * (len(events) - 1)) for share in at)
    epochs = sum(event.phase not in ("prune", "budget") for event in events[: done + 1])
    assert STEPS[0] == steps - epochs * 3
    assert [f"going on after {epochs} epochs" in line for line in lines] == [True]


def test_an_interruption_between_the_tries_of_a_step_that_failed_changes_no_bit(tmp_path):
    expected, _, events = uninterrupted("adam", "tries", False)
    tries = [i for i, event in enumerate(events) if event.phase == "prune"]
    reached = [events[i].accuracy == 1 for i in tries]
    assert reached == [False, True, True, False, False]
    for at in (tries[0] + 1, tries[3] + 1):  # the first event of the smaller try
        assert killed(tmp_path / "journal", at, pruning=PRUNINGS["tries"])
    again = []
    assert bits(learn(Journal(tmp_path / "journal"), "adam", PRUNINGS["tries"], again.append)) == expected
    assert again == events


@pytest.mark.parametrize("at", [0, 4, 9])
def test_ctrl_c_is_no_other_interruption(at, tmp_path):
    expected, steps, _ = uninterrupted("adam", "plain", False)
    path = tmp_path / "journal.safetensors"
    assert killed(path, at, signal.SIGINT)
    assert bits(learn(Journal(path))) == expected
    assert STEPS[0] < steps


def test_a_journal_changes_nothing_and_is_removed_when_it_is_told_to(tmp_path):
    path = tmp_path / "journal.safetensors"
    journal = Journal(path, interval=0.0)
    assert bits(learn(journal)) == uninterrupted("adam", "plain", False)[0]
    assert [p.name for p in tmp_path.iterdir()] == ["journal.safetensors"]
    journal.remove()
    assert not list(tmp_path.iterdir())
    journal.remove()


@pytest.mark.parametrize(
    "options", [{"interval": "1"}, {"interval": -1}, {"interval": float("nan")}, {"say": None}]
)
def test_a_journal_that_could_not_be_kept_is_refused_at_once(options):
    with pytest.raises(DataError, match="a journal has"):
        Journal("j", **options)


def test_snapshots_are_as_far_apart_as_asked(tmp_path):
    path = tmp_path / "journal.safetensors"
    learn(Journal(path, interval=1000.0))
    assert not path.exists()


def interrupt(path, **options):
    assert killed(path, 6, **options)
    assert path.exists()


def test_a_finished_job_that_was_not_saved_is_not_trained_again(tmp_path):
    path = tmp_path / "journal.safetensors"
    learn(Journal(path, interval=0.0))
    assert bits(learn(Journal(path))) == uninterrupted("adam", "plain", False)[0]
    assert STEPS[0] == 0


@examples(5, 12)
@given(damage=st.sampled_from(["flip", "cut", "junk", "json"]), where=st.floats(0, 0.999), data=st.data())
def test_a_damaged_journal_is_not_used_and_never_a_crash(damage, where, data, whole):
    path, content = whole
    broken = bytearray(content)
    position = int(where * len(broken))
    if damage == "flip":
        broken[position] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "cut":
        del broken[position:]
    elif damage == "junk":
        broken = bytearray(data.draw(st.binary(max_size=99)))
    else:
        broken = bytearray(json.dumps({"key": 1}).encode())
    path.write_bytes(broken)
    lines = []
    net = learn(Journal(path, interval=1000.0, say=lines.append))
    assert bits(net) == uninterrupted("adam", "plain", False)[0]
    assert len(lines) == 1
    assert STEPS[0] == uninterrupted("adam", "plain", False)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A journal of a job that was killed, and its bytes."""
    path = tmp_path_factory.mktemp("whole") / "journal.safetensors"
    interrupt(path)
    return path, path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "momentum"},
        {"pruning": PRUNINGS["taylor"]},
        {"pruning": Pruning(step=0.4, threshold=0.05, recovery_epochs=2, min_width=2)},
        {"routing": True},
    ],
    ids=["optimizer", "score", "least width", "router"],
)
def test_a_journal_of_another_job_is_not_used(change, tmp_path):
    path, lines = tmp_path / "journal.safetensors", []
    interrupt(path)
    expected = bits(learn(None, **change))
    assert bits(learn(Journal(path, say=lines.append), **change)) == expected
    assert lines == [f"{path} is about another training job and is not used"]


def test_other_data_or_another_seed_is_another_job(tmp_path):
    lines = []
    for seed, rows in ((0, 48), (1, 48), (0, 64)):
        net = untrained((8, 8), seed=seed)
        journal = Journal(tmp_path / "journal", interval=0.0, say=lines.append)
        quick = Training(patience=1, settle_patience=1, max_epochs=1)
        loader = task_loader(1, rows=rows)
        net.train_task("t", loader, names(2), training=quick, pruning=None, journal=journal)
    assert [line.endswith("another training job and is not used") for line in lines] == [True, True]


RATE = 0.1


def _of_global(parameters):
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            self.param_groups[0]["lr"] = RATE
            return super().step(closure)

    return Own(parameters, lr=1.0)


class Factory:
    def __init__(self, rate):
        self.rate, self.calls = rate, object()

    def __call__(self, parameters):
        return torch.optim.SGD(parameters, lr=self.rate)

    def make(self, parameters):
        return torch.optim.SGD(parameters, lr=2 * self.rate)


class Slow(torch.optim.SGD):
    def __init__(self, parameters, share):
        super().__init__(parameters, lr=0.1)
        self.share = share

    def step(self, closure=None):
        self.param_groups[0]["lr"] = self.share
        return super().step(closure)


def _scheduled(every):
    def make(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, every, 0.5)
        optimizer.register_step_post_hook(lambda *_: scheduler.step())
        return optimizer

    return make


def _configured(config):
    return lambda parameters: torch.optim.SGD(parameters, lr=config["rate"])


def _by_size(rate):
    def make(parameters):
        groups = [{"params": [p], "lr": rate if p.numel() > 20 else 0.1} for p in parameters]
        return torch.optim.SGD(groups, lr=0.1)

    return make


FACTORIES = {
    "a lambda": [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.2)],
    "a partial": [partial(torch.optim.SGD, lr=lr) for lr in (0.1, 0.2)],
    "a partial of a class of one's own": [partial(Slow, share=s) for s in (0.1, 0.2)],
    "a closure": [_by_size(0.1), _by_size(0.2)],
    "a scheduler in it": [_scheduled(2), _scheduled(3)],
    "a dict": [_configured({"rate": r, "other": object()}) for r in (0.1, 0.2)],
    "a namespace": [
        (lambda config: lambda p: Slow(p, config.share))(SimpleNamespace(share=s)) for s in (0.1, 0.2)
    ],
    "an object": [Factory(0.1), Factory(0.2)],
    "a method": [Factory(0.1).make, Factory(0.2).make],
}


def words_of_factories():
    return {kind: list(map(described, pair)) for kind, pair in FACTORIES.items()}


def test_what_makes_an_optimizer_is_told_apart_by_all_that_it_names_and_is_the_same_in_another_process(
    monkeypatch,
):
    script = (
        f"import json, sys; from importlib import util; sys.path[:] = {[str(ROOT), *sys.path]}; "
        f"spec = util.spec_from_file_location({__name__!r}, {__file__!r}); "
        "module = sys.modules[spec.name] = util.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(json.dumps(module.words_of_factories()))"
    )
    elsewhere = Forked(script, ROOT).end()
    assert json.loads(elsewhere.stdout) == words_of_factories()
    assert [kind for kind, (one, other) in words_of_factories().items() if one == other] == []
    before = described(_of_global)
    monkeypatch.setattr(f"{__name__}.RATE", 0.2)
    assert described(_of_global) != before


def frozen(trunk):
    trunk.layers[0].requires_grad_(False)
    return trunk


@pytest.mark.parametrize("kind", ["factory", "groups by size", "frozen weights"])
def test_another_optimizer_or_frozen_weights_are_another_job(kind, tmp_path):
    torch.manual_seed(0)
    pretrained = Mlp((8, 8))
    changes = {
        "factory": [{"optimizer": f} for f in FACTORIES["a scheduler in it"]],
        "groups by size": [{"optimizer": f} for f in (_by_size(0.1), _by_size(0.2))],
        "frozen weights": [{"pretrained": pretrained}, {"pretrained": frozen(Mlp((8, 8)))}],
    }[kind]
    if kind == "frozen weights":
        changes[1]["pretrained"].load_state_dict(pretrained.state_dict())
    lines = []
    for options in (changes[0], changes[0], changes[1]):
        net = untrained((8, 8))
        optimizer = options.get("optimizer", torch.optim.Adam)
        net.train_task(
            "t",
            task_loader(1),
            names(2),
            training=Training(optimizer, patience=1, settle_patience=1, max_epochs=2),
            pruning=None,
            pretrained=options.get("pretrained"),
            journal=Journal(tmp_path / "journal", interval=0.0, say=lines.append),
        )
    told = ["going on" in line or "another training" in line for line in lines if "can't store" not in line]
    assert told == [True, True]
    assert "another training job" in lines[-1] or "another training job" in lines[-2]


def test_a_course_that_differs_from_the_journal_begins_again(tmp_path, monkeypatch):
    """As when the code changed in between."""
    path, lines = tmp_path / "journal.safetensors", []
    interrupt(path)
    monkeypatch.setattr("eideticnet.learn.learning.converge", twice(monkeypatch))
    expected = bits(learn(None))
    assert bits(learn(Journal(path, say=lines.append))) == expected
    assert "does not fit" in lines[0]


def twice(monkeypatch):
    from eideticnet.learn.training import converge

    def changed(job, module, phase, patience):
        job.journal.phase("another")
        return converge(job, module, phase, patience)

    return changed


class Odd(torch.optim.SGD):
    """An optimizer whose state no journal can store."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.05, momentum=0.9)

    def state_dict(self):
        return {**super().state_dict(), "odd": object()}


def scheduled(parameters):
    """SGD with a scheduler, which the optimizer's own state knows nothing of."""
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return optimizer


@pytest.mark.parametrize("optimizer", [Odd, scheduled])
def test_an_optimizer_that_can_not_be_stored_goes_on_at_the_start_of_a_phase(optimizer, tmp_path):
    class Stop(Exception):
        pass

    def job(journal, stop_at=None):
        seen = []

        def report(event):
            seen.append(event)
            if len(seen) == stop_at:
                raise Stop

        net = untrained((16, 12))
        training = Training(optimizer, patience=1, settle_patience=2, max_epochs=3)
        net.train_task(
            "t",
            task_loader(1, 3),
            names(3),
            training=training,
            pruning=PRUNINGS["plain"],
            report=report,
            journal=journal,
        )
        return bits(net), seen

    expected, events = job(None)
    settling = [i for i, e in enumerate(events) if e.phase == "settle"]
    lines = []
    with pytest.raises(Stop):
        job(Journal(tmp_path / "j", interval=0.0, say=lines.append), settling[1] + 1)
    assert ["go on at the start of the phase" in line for line in lines] == [True]
    lines.clear()
    assert job(Journal(tmp_path / "j", say=lines.append)) == (expected, events)
    before = sum(e.phase in ("train", "recover") for e in events)
    assert lines == [f"going on after {before} epochs that were done before the interruption"]


def test_a_disk_that_is_full_costs_the_journal_and_not_the_job(tmp_path):
    path, lines = tmp_path / "journal.safetensors", []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        net = learn(Journal(path, interval=0.0, say=lines.append))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert bits(net) == uninterrupted("adam", "plain", False)[0]
    assert len(lines) == 1
    assert "can't write" in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_snapshot_that_fails_leaves_the_one_before(tmp_path):
    path = tmp_path / "journal.safetensors"
    interrupt(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        learn(Journal(path, interval=0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_saving_a_checkpoint_leaves_the_journal_alone(tmp_path):
    path = tmp_path / "journal.safetensors"
    net = learn(Journal(path, interval=0.0))
    net.save(tmp_path)
    net.save(tmp_path)
    assert path.exists()
    EideticNetwork.load(tmp_path)
