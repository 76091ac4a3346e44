"""``python -m benchmarks.ray_faults``: what is lost when something of a Ray cluster is, with two nodes and
two replicas: a replica, a node, the controller; and ten deploys.

Half of the clients try again as ours do, half never, so that both are counted in the same seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.raylets import WORKER, Raylets, raylets
from benchmarks.report import RESULTS, publish
from benchmarks.serving.nets import SHAPES, pack
from benchmarks.serving.servers import EIDETIC, Ours, ours
from eideticnet.client import Client
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.running import Running
from eideticnet.serving.key import Key
from eideticnet.serving.processes.folder import MARK
from eideticnet.serving.ray.management import RayManagement

RETRIES, CLIENTS, WORKERS, DEPLOYS = 5, 2, 2, 10
_STEADY_SECONDS, _WHOLE_SECONDS, _ANSWER_SECONDS = 3.0, 300.0, 30.0
_BETWEEN_SECONDS = 0.02
console = Console(stderr=True)
Figures = dict[str, float]
Details = dict[str, Any]


@dataclass
class Served:
    """A cluster, and the server that serves ``model`` on it."""

    cluster: Raylets
    server: Ours
    model: str = "mlp"

    @property
    def running(self) -> Running:
        return Running.read(self.server.home / "server.json")

    def replicas(self) -> list[int]:
        """The processes of the replicas that hold the version that answers."""
        running = self.running
        try:
            with RayManagement(running.management, Key(Path(running.keys), "management")) as management:
                model = management.model(self.model)
        except ServingError:
            return []
        held = model.versions.get(model.default) if model else None
        return [worker.pid for worker in held.workers] if held else []

    def wait(self, whole: Callable[[list[int]], bool]) -> float:
        """Seconds until the replicas are as they should be."""
        start = time.monotonic()
        while not whole(self.replicas()):
            if time.monotonic() - start > _WHOLE_SECONDS:
                raise SystemExit(f"not whole after {_WHOLE_SECONDS:.0f} s: {self.replicas()}")
            time.sleep(0.2)
        return time.monotonic() - start

    def processes(self, title: str) -> list[int]:
        """Those of the cluster whose title begins so."""
        found, mark = [], f"{MARK}={self.cluster.folder}/".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(title.encode()) and mark in (
                    entry / "environ"
                ).read_bytes():
                    found.append(int(entry.name))
        return found


@contextmanager
def served(archive: Path, folder: Path) -> Iterator[Served]:
    """``archive`` on two nodes, a replica on each."""
    with raylets() as cluster:
        options = ["--engine=ray", f"--address={cluster.address}", f"--workers={WORKERS}"]
        options += [f"--startup-seconds={_WHOLE_SECONDS}"]
        variables = cluster.variables
        with ours(archive, folder / "home", *options, variables=variables, seconds=_WHOLE_SECONDS) as server:
            found = Served(cluster, server, archive.name.rpartition("-")[0])
            found.wait(lambda pids: len(pids) == WORKERS)
            yield found


@dataclass
class Load:
    """Clients that ask without end, each in a thread of its own; what failed, how long the longest took, and
    which versions answered, by the number of retries."""

    url: str
    keys: Path
    model: str
    x: Any
    asked: dict[int, int] = field(default_factory=dict)
    failed: dict[int, list[str]] = field(default_factory=dict)
    longest: dict[int, float] = field(default_factory=dict)
    versions: set[str | None] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Load:
        self._threads = [
            threading.Thread(target=self._run, args=(retries,)) for retries in (RETRIES, 0) * CLIENTS
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, retries: int) -> None:
        with Client(self.url, self.keys, timeout=_ANSWER_SECONDS, retries=retries) as client:
            while not self._over.is_set():
                began, problem = time.monotonic(), ""
                try:
                    (answer,) = client.predict(self.model, self.x)
                except ServingError as error:
                    problem = str(error)[:200]
                took = time.monotonic() - began
                with self._counting:
                    self.asked[retries] = self.asked.get(retries, 0) + 1
                    self.longest[retries] = max(self.longest.get(retries, 0.0), took)
                    if problem:
                        self.failed.setdefault(retries, []).append(problem)
                    else:
                        self.versions.add(answer.model_version)
                time.sleep(_BETWEEN_SECONDS)

    def told(self) -> Details:
        """What is kept of it."""
        return {
            "asked": self.asked[RETRIES],
            "asked_bare": self.asked[0],
            "failed": self.failed.get(RETRIES, []),
            "failed_bare": self.failed.get(0, []),
            "longest_s": self.longest[RETRIES],
            "longest_bare_s": self.longest[0],
            "versions": sorted(map(str, self.versions)),
        }


def replica_killed(at: Served) -> float:
    """One of the two is killed; seconds until there are two again."""
    before = at.replicas()
    os.kill(before[0], signal.SIGKILL)
    return at.wait(lambda pids: len(pids) == WORKERS and before[0] not in pids)


def node_removed(at: Served) -> float:
    """A node with its replica and its proxy is gone at once; seconds until the other has both replicas."""
    before = set(at.replicas())
    at.cluster.remove(WORKER)
    return at.wait(lambda pids: len(pids) == WORKERS and len(before & set(pids)) < WORKERS)


def node_added(at: Served) -> float:
    """It comes back, and takes a replica that is killed on the other; seconds until then."""
    at.cluster.add(WORKER)
    time.sleep(_STEADY_SECONDS)
    return replica_killed(at)


def controller_killed(at: Served) -> float:
    """What decides for Serve is killed; seconds until there is another, and all replicas answer."""
    (before,) = at.processes("ray::ServeController")
    os.kill(before, signal.SIGKILL)

    def whole(pids: list[int]) -> bool:
        return len(pids) == WORKERS and at.processes("ray::ServeController") not in ([before], [])

    return at.wait(whole)


def deploys(at: Served, archives: list[Path], count: int = DEPLOYS) -> float:
    """Versions that take over from each other; seconds of one, on average."""
    began = time.monotonic()
    for i in range(count):
        command = [EIDETIC, "deploy", str(archives[(i + 1) % len(archives)])]
        command += ["--home", str(at.server.home), "--accept-unmeasured-routing"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"a deploy failed: {done.stderr}")
    return (time.monotonic() - began) / count


def under_load(at: Served, fault: Callable[[], float], x: Any) -> Details:
    """What ``fault`` does to requests, from some seconds before it until some after."""
    running = at.running
    with Load(running.inference, Path(running.keys), at.model, x) as load:
        time.sleep(_STEADY_SECONDS)
        seconds = fault()
        time.sleep(_STEADY_SECONDS)
    return {**load.told(), "whole_s": seconds}


def faults(folder: Path) -> tuple[Figures, Details]:
    """All of them, one after the other on one cluster."""
    figures, details = Figures(), Details()
    pack("mlp", folder, ("1.0", "2.0"))
    archives = [folder / f"mlp-{version}.mar" for version in ("1.0", "2.0")]
    x = np.random.default_rng(0).random(SHAPES["mlp"], np.float32)
    with served(archives[0], folder) as at:
        tried: dict[str, Callable[[], float]] = {
            "deploys": lambda: deploys(at, archives),
            "replica_killed": lambda: replica_killed(at),
            "controller_killed": lambda: controller_killed(at),
            "node_removed": lambda: node_removed(at),
            "node_added": lambda: node_added(at),
        }
        for name, fault in tried.items():
            found = under_load(at, fault, x)
            console.print(name, found)
            details[name] = found
            figures |= {
                f"{name}.failed": float(len(found["failed"])),
                f"{name}.failed.bare": float(len(found["failed_bare"])),
                f"{name}.longest_s": max(found["longest_s"], found["longest_bare_s"]),
                f"{name}.whole_s": found["whole_s"],
            }
    return figures, details


def main() -> None:
    """Measure, and write the figures among those of ``results/ray.json``."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    kept = RESULTS / "ray.json"
    before = json.loads(kept.read_text()) if kept.exists() else {"figures": {}, "details": {}}
    with tempfile.TemporaryDirectory(prefix="eidetic-bench-") as scratch:
        figures, details = faults(Path(scratch))
    publish("ray", {**before["figures"], **figures}, {**before["details"], **details})


if __name__ == "__main__":
    main()
