"""``eidetic serve``: from a home folder and archives to a server that is watched until it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from eideticnet.contract.parts import as_json
from eideticnet.serving.deploys.compiling import COMPILED, compiled, remove_unneeded_graphs
from eideticnet.serving.deploys.probes import write_example
from eideticnet.serving.edge.counters import EdgeCounters
from eideticnet.serving.edge.process import Edge
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import Ports
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.home.store import admit, opened, remove_unneeded
from eideticnet.serving.processes.folder import clean_up
from eideticnet.serving.processes.groups import end_group
from eideticnet.serving.supervise import described
from eideticnet.serving.supervise.control import Control
from eideticnet.serving.supervise.launch import ServerOptions
from eideticnet.serving.supervise.metrics import WorkerMetrics, registry
from eideticnet.serving.supervise.ports import free_ports
from eideticnet.serving.supervise.supervisor import Supervisor
from eideticnet.serving.supervise.watch import Watch

_TAKEN = "Address already in use"
BESIDE = "EIDETIC_BESIDE"
"""In the environment of the page: the process that it ends with, however that ends."""


@contextmanager
def prepared(
    home: Home, archives: Sequence[Path], options: ServerOptions, *, replace: bool = False
) -> Iterator[list[str]]:
    """The home, held for a server that is to serve what it served before and ``archives``; notes on that.
    A home that was made for nothing does not stay."""
    new = not home.root.exists()
    home.create()
    with home.serving():
        try:
            free_ports(options.network, asked=options.ports)  # before anything is changed
            yield _adopted(home, archives, options, replace)
        finally:
            served = home.running.exists()
            clean_up(home)  # an interrupt may have broken off what the engine's own end removes
            if new and not served:
                shutil.rmtree(home.root, ignore_errors=True)


def _adopted(home: Home, archives: Sequence[Path], options: ServerOptions, replace: bool) -> list[str]:
    clean_up(home)
    WorkerMetrics(home.metrics).begin_anew()
    with home.changing():
        torch = options.allow_torch
        state, notes = adopt(home, archives, allow_torch=torch, trusted=options.trusted, replace=replace)
        for name, model in state.models.items():  # before the engine is started for nothing
            default, trusted = model.default, state.trusted
            found = opened(name, default, home.store, allow_torch=torch, revoked=False, trusted=trusted)
            if options.compile and found.bundle.format == COMPILED:
                notes.append(compiled(home, default, found))
        state.write(home.state)
        remove_unneeded(home.store, state)
        remove_unneeded_graphs(home, state)
    return notes


@contextmanager
def started(home: Home, options: ServerOptions) -> Iterator[Supervisor]:
    """A server that answers, on the ports that it had before; another program may take one in between."""
    with ExitStack() as stack:
        for prefer_usual in (True, True, False):
            before = _ports_before(home)
            ports = free_ports(options.network, before, asked=options.ports, prefer_usual=prefer_usual)
            try:
                supervisor = _up(stack, home, options, ports)
                break
            except (ServingError, OSError) as error:
                stack.close()
                if not prefer_usual or _TAKEN not in str(error):
                    raise
        ports.write(home.ports)
        yield supervisor


def _ports_before(home: Home) -> Ports | None:
    """Those of the server that ran here last; none are remembered that can't be read."""
    with suppress(ServingError):
        return Ports.read(home.ports)
    return None


def _up(stack: ExitStack, home: Home, options: ServerOptions, ports: Ports) -> Supervisor:
    watch = Watch(options.engine.name)
    workers, edge, network = WorkerMetrics(home.metrics), None, options.network
    if options.edge:
        keys = options.keys or home.keys
        made = Edge(home, options.edge, network, ports, keys, watch.ready, options.silence_seconds)
        edge = stack.enter_context(made)
    pages = {"/openapi.json": described.page(lambda: described.served(home, options.engine))}
    metrics = registry(watch, workers, *([EdgeCounters(edge)] if edge else []))
    stack.enter_context(Control(network.management_host, ports.control, watch, metrics, pages))
    return stack.enter_context(Supervisor(home, options, ports, watch, workers, edge))


@contextmanager
def page_beside(supervisor: Supervisor) -> Iterator[list[int]]:
    """``eidetic demo`` for the server's first model, which ends with the block; its process."""
    name = next(iter(supervisor.server.state().models))
    command = [
        sys.executable,
        "-m",
        "eideticnet",
        "demo",
        "--home",
        str(supervisor.home.root),
        "--name",
        name,
    ]
    variables = {**os.environ, BESIDE: str(os.getpid())}
    process = subprocess.Popen(command, env=variables, start_new_session=True)
    try:
        yield [process.pid]
    finally:
        end_group(process)


def run_beside(supervisor: Supervisor, command: str, others: Sequence[int] | None = None) -> int:
    """Run a shell command in a process group of its own while the server is watched; its exit status. The
    caller waits for the processes ``others``."""
    process = subprocess.Popen(command, shell=True, env=_told_about(supervisor), start_new_session=True)
    try:
        supervisor.run(lambda: process.poll() is not None, [process.pid, *(others or ())])
        return process.wait()
    finally:
        end_group(process)


def _told_about(supervisor: Supervisor) -> dict[str, str]:
    """The environment of a command that is to send requests to the server."""
    server = supervisor.server
    name, model = next(iter(server.state().models.items()))
    archive = server.archive(name, model.default)
    return {
        **os.environ,
        "EIDETIC_URL": server.running.inference,
        "EIDETIC_GRPC": server.running.grpc_inference,
        "EIDETIC_KEYS": server.running.keys,
        "EIDETIC_MODEL": name,
        "EIDETIC_EXAMPLE": str(write_example(archive, supervisor.home.example(name)).resolve()),
        "EIDETIC_INPUT": json.dumps(as_json(archive.bundle.input)),
        "EIDETIC_HOME": str(supervisor.home.root.resolve()),
    }


def adopt(
    home: Home,
    archives: Sequence[Path],
    *,
    allow_torch: bool = False,
    trusted: Sequence[str] = (),
    replace: bool = False,
) -> tuple[State, list[str]]:
    """The state with ``archives`` in it, not yet written, and notes for the user. ``trusted`` ones take the
    place of those of before.

    An archive that this home had before changes nothing: what was deployed since stays. Another archive of
    a model that is served takes its place only if ``replace`` says so, and then without a proof.
    """
    before = state = State.load(home.state).trusting(trusted)
    if not replace and not before.models and home.header.exists():
        raise ServingError(
            f"{home.state} is gone or names no model, though {home.root} has served: put it back, or begin "
            "again with archives and --replace, or with another --home"
        )
    notes, given = [], dict[str, Path]()
    for path in archives:
        stored = admit(path, home.store, allow_torch=allow_torch, trusted=state.trusted)
        name, version = stored.archive.name, stored.version
        if name in given:
            raise ServingError(
                f"{given[name]} and {path} are both of model {name}; deploy one after the other"
            )
        given[name] = path
        known = before.models.get(name)
        seen = known is not None and version.sha256 in (known.default.sha256, *known.earlier)
        if known is None or (replace and not seen):
            state = state.replaced(name, version)
        elif not seen:
            raise ServingError(
                f"{path} is new here, and {name} is served already, version {known.default.version}. Start "
                f"without it, then: eidetic deploy {path} --home {home.root}, which "
                "proves that nothing is forgotten; or --replace, without a proof"
            )
        elif known.default.sha256 != version.sha256:
            notes.append(f"{name} goes on with version {known.default.version}, which came after {path.name}")
    if not state.models:
        raise ServingError(f"nothing was ever served in {home.root}: give at least one archive")
    return state, notes
