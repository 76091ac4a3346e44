"""The watch goes on, whatever it meets."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.serving.deploys.probes import PROBE_SECONDS
from eideticnet.serving.supervise import watch as module
from eideticnet.serving.supervise.watch import Watch
from tests.support.waiting import until


def server(models):
    """As much of a connection as the watch looks at; ``models`` is called at each look."""
    state = SimpleNamespace(models={})
    return SimpleNamespace(management=SimpleNamespace(models=lambda seconds: models()), state=lambda: state)


def latencies(models):
    """Seconds until each model answers, none of them more than the watch waits."""
    return st.lists(st.floats(0, PROBE_SECONDS), min_size=models, max_size=models)


@contextmanager
def watching(found):
    watch = Watch("An engine")
    watch.point_at(found)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def test_a_look_that_fails_in_a_way_that_nobody_thought_of_is_followed_by_others():
    answers = [{}, RuntimeError("the client has been closed"), {"net": 1}]

    def models():
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    with watching(server(models)) as watch:
        until(lambda: watch.held == {"net": 1})
        assert watch.unready() == []


def test_a_server_is_never_looked_at_any_more_once_the_watch_points_elsewhere():
    """The server's clients are closed right after the watch is pointed elsewhere."""
    looking, closed, late = [False], [False], []

    def models():
        looking[0] = True
        time.sleep(0.3)
        late.append(closed[0])
        return {}

    with watching(server(models)) as watch:
        looking[0] = False
        until(lambda: looking[0])
        watch.point_at(None)
        closed[0] = True
    assert len(late) >= 2
    assert not any(late)


@given(st.integers(1, 4).flatmap(lambda models: st.lists(latencies(models), min_size=1, max_size=4)))
def test_models_that_always_answer_in_time_are_always_ready_however_late(rounds):
    """In each round the models are asked one after another, and take as many seconds as are drawn."""
    now, seconds, seen = [1000.0], iter([0.0] * len(rounds[0])), []
    watch = Watch("An engine")

    def check(archive):
        now[0] += next(seconds)
        seen.append(watch.unready())  # just before this answer counts, so the last one is at its oldest

    state = SimpleNamespace(models={f"net {i}": SimpleNamespace(default=i) for i in range(len(rounds[0]))})
    found = server(dict)
    found.state, found.archive = lambda: state, lambda name, version: version
    found.prober = SimpleNamespace(check=check)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
        watch.point_at(found)
        seen.clear()
        for drawn in rounds:
            now[0] += module._PAUSE_SECONDS
            seconds = iter(drawn)
            watch.look()
        assert not any(seen)
        now[0] += 60
        assert len(watch.unready()) == len(state.models)


def test_a_model_that_was_just_deployed_makes_no_ready_server_unready_before_it_is_asked():
    """A deploy has had its probes answered, so a balancer need not take the server out meanwhile."""
    watch, found, broken = Watch("An engine"), server(dict), []
    state = SimpleNamespace(models={"net": SimpleNamespace(default=1)})

    def check(archive):
        if archive in broken:
            raise ConnectionError("nothing listens")

    found.state, found.archive = lambda: state, lambda name, version: name
    found.prober = SimpleNamespace(check=check)
    watch.point_at(found)
    assert watch.unready() == []
    state.models["other"] = SimpleNamespace(default=1)
    assert watch.unready() == []
    broken.append("other")
    watch.look()
    assert watch.unready() == ["model other: nothing listens"]
