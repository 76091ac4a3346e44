"""When a version is said to answer on all replicas: what they say themselves decides. Without Ray."""

import pytest
from ray.exceptions import RayActorError

from eideticnet.serving.errors import ServingError
from eideticnet.serving.ray import application as module
from eideticnet.serving.ray.application import Application
from eideticnet.serving.ray.desired import Desired

SHA256 = "0" * 64
NET = {"default": "1.0", "versions": {v: {"archive": "a", "sha256": SHA256} for v in ("1.0", "2.0")}}


def report(default, *problems):
    versions = {version: {"sha256": SHA256, "waiting": 0} for version in NET["versions"]}
    return {"pid": 1, "models": {"net": {"default": default, "versions": versions}}, "problems": problems}


@pytest.fixture
def replicas(monkeypatch):
    """``replicas(answers)``: an application whose replicas answer so."""
    monkeypatch.setattr(module, "memory", type("Memory", (), {"put_desired": print, "keep_archives": print}))

    def make(*answers):
        found = Application(settings=None, _desired=Desired.read({"models": {"net": NET}}))
        found._ask = lambda method, seconds: list(answers)
        return found

    return make


def test_a_version_answers_when_all_replicas_that_are_left_say_so(replicas):
    replicas(report("2.0"), RayActorError(), report("2.0")).set_default("net", "2.0", 0)


@pytest.mark.parametrize("other", [TimeoutError(), report("1.0")])
def test_a_replica_that_is_silent_or_has_the_old_version_is_not_taken_for_one_with_the_new(replicas, other):
    with pytest.raises(ServingError, match="1 of 2 replicas have changed after 0 s"):
        replicas(report("2.0"), other).set_default("net", "2.0", 0)


def test_what_a_replica_can_not_hold_is_told_where_it_is_needed_and_hinders_nothing_else(replicas):
    at = replicas(report("2.0"), report("1.0", ["net", "2.0", "no room"]))
    with pytest.raises(ServingError, match="can't hold what it is to: no room"):
        at.set_default("net", "2.0", 30)
    replicas(report("2.0", ["other", "7.0", "no room"])).set_default("net", "2.0", 0)
    left = report("1.0", ["net", "2.0", "no room"])
    del left["models"]["net"]["versions"]["2.0"]
    replicas(left).forget("net", "2.0", 0)
