"""From what is desired and what the engine holds to the steps in between. A pure function.

The steps are computed each time from what is there, so what was interrupted at any point is finished by
the next caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from eideticnet.serving.engine import HeldModel
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.state import CLOSED, State, Version


@dataclass(frozen=True)
class _Archived:
    model: str
    version: Version


@dataclass(frozen=True)
class _Held:
    model: str
    version: str


class Register(_Archived):
    """Load an archive."""


class Probe(_Archived):
    """Wait until a version answers its own probes."""


@dataclass(frozen=True)
class Scale(_Held):
    """Give a version this many workers."""

    workers: int


class SetDefault(_Held):
    """Let a version answer requests that name none."""


class Drain(_Held):
    """Let a version's queue and what is in flight run empty."""


class Unregister(_Held):
    """Let a version go."""


Action = Register | Scale | Probe | SetDefault | Drain | Unregister


def plan(state: State, held: Mapping[str, HeldModel], workers: int) -> list[Action]:
    """What makes an engine, which holds ``held``, serve exactly ``state`` with ``workers`` workers a version.

    All archives are loaded before the first takes over. A version goes only when another is the default
    and has answered, or when its model is not served any more.
    """
    if any(CLOSED in model.versions for name, model in held.items() if name in state.models):
        raise ServingError("the server is stopping: nothing is changed any more")
    loading: list[Action] = []
    for name, model in state.models.items():
        loading += _load(name, model.default, held.get(name), workers)
    rest: list[Action] = []
    for name, model in state.models.items():
        rest += _switch(name, model.default, held.get(name))
    for name in sorted(held.keys() - state.models.keys()):
        rest += _remove(name, held[name])
    return loading + rest


def _load(name: str, wanted: Version, held: HeldModel | None, workers: int) -> Iterator[Action]:
    there = held.versions.get(wanted.version) if held else None
    if there is not None and there.file != wanted.file:
        raise ServingError(
            f"the server holds another archive as version {wanted.version} of {name} ({there.file}), "
            "and can't hold both; restart the server"
        )
    if there is None:
        yield Register(name, wanted)
    if there is None or there.wanted != workers:
        yield Scale(name, wanted.version, workers)


def _switch(name: str, wanted: Version, held: HeldModel | None) -> Iterator[Action]:
    if held is None or held.default != wanted.version:
        yield Probe(name, wanted)
        yield SetDefault(name, wanted.version)
    for version in sorted(held.versions) if held else ():
        if version != wanted.version:
            yield Drain(name, version)
            yield Unregister(name, version)


def _remove(name: str, held: HeldModel) -> Iterator[Action]:
    """The default goes last: an engine lets it go only alone."""
    for version in sorted(held.versions, key=lambda version: (version == held.default, version)):
        yield Drain(name, version)
        yield Unregister(name, version)
