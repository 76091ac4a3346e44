"""A server is given up for lost when it is silent or idle for too long, and not because nobody looked."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.serving.engine import HeldModel, HeldVersion, Worker
from eideticnet.serving.home.state import Model, State, Version
from eideticnet.serving.supervise import liveness as module
from eideticnet.serving.supervise.liveness import Liveness

STATE = State(
    models={
        name: Model(default=Version(version="1", file=f"{name}.mar", sha256="0" * 64))
        for name in ("net", "other")
    }
)


def held(ready, other=False):
    """Two models; ``loading`` is one that a deploy is about to add, whose worker never comes."""
    models = {"net": ready, "other": other, "loading": False}
    return {n: HeldModel("1", {"1": HeldVersion(f"{n}.mar", 1, (Worker(7, r),))}) for n, r in models.items()}


@pytest.fixture
def clock(monkeypatch):
    """What is taken for the time; the test moves it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_long_time_without_a_look_is_no_silence(clock):
    liveness = Liveness("An engine", silence=5, idleness=5)
    liveness.beat(STATE, held(True))
    clock.now += 10
    assert liveness.lost() == ""
    liveness.miss("answered nothing")
    assert liveness.lost() == ""


def test_silence_and_idleness_are_told_once_they_last(clock):
    for sign, words in (
        (lambda p: p.miss("answered nothing"), "An engine has answered nothing"),
        (lambda p: p.miss("refused its own keys"), "refused its own keys"),
        (lambda p: p.beat(STATE, held(False)), "no worker of"),
    ):
        liveness = Liveness("An engine", silence=5, idleness=5)
        sign(liveness)
        clock.now += 5
        assert liveness.lost() == ""
        clock.now += 1
        sign(liveness)
        assert words in liveness.lost()


def test_a_model_without_workers_costs_no_other_its_server():
    liveness = Liveness("An engine", silence=5, idleness=-1)
    for one, other in ((True, False), (False, True)):
        liveness.beat(STATE, held(one, other))
        assert liveness.lost() == ""
    liveness.beat(STATE, held(False))
    assert "no worker of any model" in liveness.lost()


@given(st.lists(st.sampled_from(["beat", "idle", "miss"]), max_size=20))
def test_one_good_look_always_ends_what_was_wrong(signs):
    liveness = Liveness("An engine", silence=-1, idleness=-1)
    for sign in [*signs, "beat"]:
        {
            "beat": lambda: liveness.beat(STATE, held(True)),
            "idle": lambda: liveness.beat(STATE, held(False)),
            "miss": lambda: liveness.miss("answered nothing"),
        }[sign]()
    assert liveness.lost() == ""
