"""``serving start``: from a home folder and archives to a server that is watched until it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from eideticnet.serving import openapi
from eideticnet.serving.adopt import adopt
from eideticnet.serving.control import Control
from eideticnet.serving.errors import ServingError
from eideticnet.serving.groups import end_group
from eideticnet.serving.home import Home
from eideticnet.serving.launch import Options
from eideticnet.serving.leftovers import clean_up
from eideticnet.serving.metrics import forget, registry
from eideticnet.serving.ports import free_ports
from eideticnet.serving.probes import write_example
from eideticnet.serving.settings import Ports
from eideticnet.serving.store import opened, prune
from eideticnet.serving.supervisor import Supervisor
from eideticnet.serving.watch import Watch

_TAKEN = "Address already in use"


@contextmanager
def prepared(
    home: Home, archives: Sequence[Path], options: Options, *, replace: bool = False
) -> Iterator[list[str]]:
    """The home, held for a server that is to serve what it served before and ``archives``; notes on that.
    A home that was made for nothing does not stay."""
    new = not home.root.exists()
    home.create()
    with home.serving():
        try:
            notes = _adopted(home, archives, options, replace)
        except BaseException:
            if new:
                shutil.rmtree(home.root, ignore_errors=True)
            raise
        try:
            yield notes
        finally:  # an interrupt may have broken off what TorchServe's own end removes
            clean_up(home)


def _adopted(home: Home, archives: Sequence[Path], options: Options, replace: bool) -> list[str]:
    clean_up(home)
    forget(home.metrics)
    with home.changing():
        state, notes = adopt(home, archives, allow_torch=options.allow_torch, replace=replace)
        for name, model in state.models.items():  # before TorchServe is started for nothing
            opened(name, model.default, home.store, allow_torch=options.allow_torch)
        state.write(home.state)
        prune(home.store, state)
    return notes


@contextmanager
def started(home: Home, options: Options) -> Iterator[Supervisor]:
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


def _up(stack: ExitStack, home: Home, options: Options, ports: Ports) -> Supervisor:
    watch = Watch()
    metrics = registry(watch, home.metrics)
    pages = {"/openapi.json": openapi.page(lambda: openapi.served(home))}
    stack.enter_context(Control(options.network.management_host, ports.control, watch, metrics, pages))
    return stack.enter_context(Supervisor(home, options, ports, watch))


def run_beside(supervisor: Supervisor, command: str) -> int:
    """Run a shell command in a process group of its own while the server is watched; its exit status."""
    process = subprocess.Popen(command, shell=True, env=_told_about(supervisor), start_new_session=True)
    try:
        supervisor.run(lambda: process.poll() is not None, [process.pid])
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
        "EIDETIC_INPUT": json.dumps(archive.bundle["input"]),
        "EIDETIC_HOME": str(supervisor.home.root.resolve()),
    }
