"""Bring the engine to what ``state.json`` says, from any state.

Starting, recovering from a crash, finishing a deploy and cleaning up after one that broke off are all this.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from eideticnet.serving.deploys.connection import Connection
from eideticnet.serving.deploys.plan import Action, Drain, Probe, Register, Scale, SetDefault, Unregister
from eideticnet.serving.deploys.plan import plan as planned
from eideticnet.serving.engine import Drained
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.state import State, Version

_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Done:
    """An action that was taken; ``drained`` says how a drain ended."""

    action: Action
    drained: Drained | None = None


def reconcile(server: Connection, state: State) -> Iterator[Done]:
    """Take the actions that are needed, each one when the caller asks for the next."""
    for action in planned(state, server.management.models(), server.running.workers):
        yield Done(action, perform(server, action))


def settle(server: Connection, state: State) -> None:
    """``reconcile`` to its end. Each archive is read and checked once."""
    for _ in reconcile(server.for_one_change(server.known or {}), state):
        pass


def perform(server: Connection, action: Action) -> Drained | None:
    """Take one action; taking it twice does no harm."""
    match action:
        case Register(name, version):
            server.load(name, version)
        case Scale(name, label, workers):
            server.management.scale(name, label, workers)
        case Probe(name, version):
            _wait(server, name, version)
        case SetDefault(name, label):
            server.management.set_default(name, label)
        case Drain(name, label):
            left = server.management.drain(name, label, server.timeouts.drain)
            return left if left.empty else server.management.release(name, label, left)
        case Unregister(name, label):
            server.management.forget(name, label)
    return None


def _wait(server: Connection, name: str, version: Version) -> None:
    """Until every worker of a version is ready, and the version answers its probes."""
    deadline = time.monotonic() + server.timeouts.ready
    while True:
        model = server.management.model(name)
        held = model.versions.get(version.version) if model else None
        if held is None:
            raise ServingError(f"{server.engine.name} let {name} {version.version} go while it was loading")
        if held.ready >= held.wanted:
            break
        if held.problem:
            raise ServingError(f"{name} {version.version} can't be held: {held.problem}")
        if time.monotonic() > deadline:
            what = f"{held.ready} of {held.wanted} workers of {name} {version.version} are ready"
            raise ServingError(f"{what} after {server.timeouts.ready:.0f} s")
        time.sleep(_PAUSE_SECONDS)
    server.prober.wait(server.archive(name, version), max(1.0, deadline - time.monotonic()))
