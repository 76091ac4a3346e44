"""From any state that TorchServe can be in to the one that is desired, without ever having no default."""

from dataclasses import replace
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.serving.deploys.plan import Drain, Probe, Register, Scale, SetDefault, Unregister, plan
from eideticnet.serving.engine import HeldModel, HeldVersion, Worker
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.state import Model, State, Version
from eideticnet.serving.torchserve.strangers import plain

LABELS = ["1.0", "2.0", "3.0"]
MODELS = ["a", "b", "c"]
WORKERS = 2


def file(name, version):
    return f"{name}-{version}.mar"


def version(name, label):
    return Version(version=label, file=file(name, label), sha256="0" * 64)


@st.composite
def held_models(draw):
    """What TorchServe may hold: any versions, with any number of workers, any of them the default."""
    held = {}
    for name in draw(st.sets(st.sampled_from(MODELS))):
        labels = draw(st.sets(st.sampled_from(LABELS), min_size=1))
        wanted = st.integers(0, 3)
        found = {label: HeldVersion(file(name, label), draw(wanted)) for label in labels}
        held[name] = HeldModel(draw(st.sampled_from(sorted(labels))), found)
    return held


STATES = st.dictionaries(st.sampled_from(MODELS), st.sampled_from(LABELS)).map(
    lambda chosen: State(models={n: Model(default=version(n, label)) for n, label in chosen.items()})
)


class Pretended:
    """TorchServe's rules about versions, as they were seen: the first becomes the default, a default goes
    only if it is alone. ``desired`` models must always have a default that answers."""

    def __init__(self, held, desired):
        self.held, self.desired = dict(held), desired
        self.probed, self.drained = set(), set()

    def take(self, action):
        match action:
            case Register(name, new):
                model = self.held.get(name) or HeldModel(new.version, {})
                assert new.version not in model.versions
                versions = {**model.versions, new.version: HeldVersion(new.file, 1)}
                self.held[name] = replace(model, versions=versions)
            case Scale(name, label, workers):
                found = replace(self.held[name].versions[label], wanted=workers)
                versions = {**self.held[name].versions, label: found}
                self.held[name] = replace(self.held[name], versions=versions)
            case Probe(name, new):
                assert self.held[name].versions[new.version].wanted > 0
                self.probed.add((name, new.version))
            case SetDefault(name, label):
                assert (name, label) in self.probed
                self.held[name] = replace(self.held[name], default=label)
            case Drain(name, label):
                self.drained.add((name, label))
            case Unregister(name, label):
                self.unregister(name, label)

    def unregister(self, name, label):
        model = self.held[name]
        assert (name, label) in self.drained
        if name in self.desired:
            assert label != model.default
        assert label != model.default or len(model.versions) == 1
        left = {k: v for k, v in model.versions.items() if k != label}
        self.held = {**self.held, name: replace(model, versions=left)}
        if not left:
            del self.held[name]


def goal(state):
    return {n: HeldModel(m.default.version, {m.default.version: HeldVersion(m.default.file, WORKERS)})
            for n, m in state.models.items()}  # fmt: skip


@given(state=STATES, held=held_models())
def test_a_plan_always_reaches_the_desired_state_and_never_takes_the_default_away(state, held):
    pretended = Pretended(held, state.models)
    for action in plan(state, held, WORKERS):
        pretended.take(action)
    assert pretended.held == goal(state)
    assert plan(state, pretended.held, WORKERS) == []


@given(state=STATES, held=held_models(), data=st.data())
def test_what_is_interrupted_anywhere_is_finished_by_the_next_plan(state, held, data):
    pretended = Pretended(held, state.models)
    actions = plan(state, held, WORKERS)
    for action in actions[: data.draw(st.integers(0, len(actions)))]:
        pretended.take(action)
    after = Pretended(pretended.held, state.models)
    for action in plan(state, after.held, WORKERS):
        after.take(action)
    assert after.held == goal(state)


@given(state=STATES, held=held_models())
def test_what_is_served_already_is_left_alone(state, held):
    served = goal(state)
    assert plan(state, served, WORKERS) == []
    busy = {n: replace(m, versions={k: replace(v, workers=(Worker(1, False),), pending=9) for k, v in
            m.versions.items()}) for n, m in served.items()}  # fmt: skip
    assert plan(state, busy, WORKERS) == []


def test_two_archives_of_one_version_are_an_error_and_no_plan():
    state = State(models={"a": Model(default=version("a", "1.0"))})
    held = {"a": HeldModel("1.0", {"1.0": HeldVersion("a-1.0-other.mar", WORKERS)})}
    with pytest.raises(ServingError, match=r"another archive as version 1\.0 of a"):
        plan(state, held, WORKERS)


@pytest.mark.parametrize("name", ["net", "A-1_b.c", "_stopping", "x" * 64])
def test_what_archives_may_be_called_stands_in_a_path_as_it_is(name):
    assert plain(name, "1.0")


@given(st.text(max_size=200))
def test_a_name_stands_in_a_path_only_if_that_says_the_same_however_it_is_read(name):
    path = httpx.URL(f"http://x/models/{quote(name, safe='')}/all").raw_path.decode()
    assert not plain(name) or path.split("/") == ["", "models", name, "all"]
