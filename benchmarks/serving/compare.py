"""The same requests to several servers, in turns, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.serving.client import Load, Target, load
from benchmarks.serving.cpu import measured
from benchmarks.serving.nets import SHAPES
from benchmarks.serving.payloads import JSON, Bare, questions
from benchmarks.serving.servers import ours, peer
from eideticnet.export.archive.reader import read_archive

ROUNDS = 7
LATENCY, RAY = "latency", "ray"  # this server once more, with the other profile and on the other engine
OURS = {"ours": (), LATENCY: ("--profile", "latency"), RAY: ("--engine", "ray")}
WARM_SECONDS = 20.0  # until Java's compilers are mostly done; the peers get the same
ALONE = "replica"  # that of Ray Serve, asked without the proxy before it
console = Console(stderr=True)
Names = tuple[list[str], list[list[str]]]
Runs = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Net:
    """One network: its archives lie in ``folder``, beside the graph that the peers run."""

    name: str
    folder: Path

    @property
    def graph(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    def archive(self, version: str = "1.0") -> Path:
        return self.folder / f"{self.name}-{version}.mar"

    def names(self) -> Names:
        """Of the tasks, and of each one's classes."""
        tasks = read_archive(self.archive()).tasks
        return [t.name for t in tasks], [list(t.classes) for t in tasks]


@contextmanager
def servers(
    net: Net, home: Path, peers: Sequence[str], kind: str, others: Mapping[str, Net] = MappingProxyType({})
) -> Iterator[dict[str, Target]]:
    """This server and ``peers``, all running at once; only one at a time gets requests. Those in ``others``
    serve another network."""
    with ExitStack() as stack:
        found: dict[str, Target] = {}
        for name in ("ours", *peers):
            if name in OURS:
                other = home.with_name(f"{home.name}-{name}")
                found[name] = stack.enter_context(ours(net.archive(), other, *OURS[name])).target
                continue
            found[name] = stack.enter_context(peer(name, others.get(name, net).graph, json=kind == JSON))
        for name, target in found.items():
            warm(others.get(name, net), target, kind)
        yield found


def warm(net: Net, target: Target, kind: str, seconds: float | None = None) -> None:
    """Ask until Java's compilers are mostly done."""
    asked = questions(Bare(net.graph), SHAPES[net.name], 256, seed=0)
    end = time.perf_counter() + (WARM_SECONDS if seconds is None else seconds)
    load(target.port, asked.requests(target, kind), 32, stop=lambda: time.perf_counter() > end)


def compare(
    net: Net,
    targets: Mapping[str, Target],
    kind: str,
    connections: int,
    count: int,
    *,
    bare: bool = False,
    others: Mapping[str, Net] = MappingProxyType({}),
) -> Runs:
    """``ROUNDS`` runs of each server, and of bare ONNX Runtime at batch 32 if asked for, after one to warm
    up: rate, latency, what the client cost and what each program did. Every answer is checked."""
    alone, names, runs = Bare(net.graph), net.names(), {name: list[dict[str, float]]() for name in targets}
    graphs = {name: Bare(other.graph) for name, other in others.items()}
    for turn in range(ROUNDS + 1):
        seed = 1000 * connections + turn
        mine = questions(alone, SHAPES[net.name], count, seed)
        order = list(targets)[turn % len(targets) :] + list(targets)[: turn % len(targets)]
        for name in order:
            target, asked = targets[name], mine
            if name in graphs:
                asked = questions(graphs[name], SHAPES[others[name].name], count, seed)
            requests = asked.requests(target, kind)
            with measured(count) as cpu:
                seen = load(target.port, requests, connections)
            wrong = asked.wrong(seen, names if name in OURS or name == ALONE else None)
            if wrong:
                raise SystemExit(f"{name}: {wrong} of {count} answers are wrong")
            if turn:
                runs[name].append(_described(seen) | cpu)
        if bare and turn:
            runs.setdefault("bare", []).append({"rate": _bare_rate(alone, mine.x)})
        now = {name: round(taken[-1]["rate"]) for name, taken in runs.items() if taken}
        console.print(f"{net.name} {kind} {connections} connections, round {turn} of {ROUNDS}: {now}")
    return runs


def _described(seen: Load) -> dict[str, float]:
    p50, p99 = np.percentile(seen.latency, (50, 99)) * 1e3
    return {
        "rate": seen.rate,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "client_us": 1e6 * seen.client_cpu / len(seen.bodies),
    }


def _bare_rate(alone: Bare, x: Any) -> float:
    start = time.perf_counter()
    for i in range(0, len(x), 32):
        alone(x[i : i + 32])
    return len(x) / (time.perf_counter() - start)


def ratio(runs: Runs, one: str, other: str, what: str = "rate") -> dict[str, float]:
    """The median of the rounds' ratios, and their spread."""
    each = [a[what] / b[what] for a, b in zip(runs[one], runs[other], strict=True)]
    low, median, high = np.percentile(each, (25, 50, 75))
    return {
        "median": float(median),
        "p25": float(low),
        "p75": float(high),
        "min": min(each),
        "max": max(each),
    }


def medians(runs: Runs) -> dict[str, dict[str, float]]:
    """Of each server's figures, over the rounds."""
    return {
        name: {key: statistics.median(run.get(key, 0.0) for run in taken) for key in taken[0]}
        for name, taken in runs.items()
    }
