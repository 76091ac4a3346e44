"""What the edge costs: the same requests with it and without, in turns, at 1 and at 32 connections.

``make bench-edge`` takes four minutes on two idle cores, which the client shares.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import publish
from benchmarks.serving.client import load
from benchmarks.serving.compare import Net, warm
from benchmarks.serving.nets import SHAPES, pack
from benchmarks.serving.payloads import RAW, Bare, questions
from benchmarks.serving.servers import Ours, ours

NAME = "mlp"
_RUNS = {1: 300, 32: 1500}
"""Requests of a round, by connections."""


def main() -> None:
    """Print the ratios, and write ``results/edge.json``."""
    parser = argparse.ArgumentParser(description="What the edge costs.")
    parser.add_argument("--rounds", type=int, default=9, help="of each server and number of connections")
    parser.add_argument("--quick", action="store_true", help="a try: nothing is kept")
    options = parser.parse_args()
    rounds, quick = options.rounds, options.quick
    with tempfile.TemporaryDirectory(prefix="bench-edge-") as folder:
        graph = pack(NAME, Path(folder))
        net = Net(NAME, Path(folder))
        with (
            ours(net.archive(), Path(folder) / "without") as without,
            ours(net.archive(), Path(folder) / "with", "--edge") as behind,
        ):
            servers = {"without": without, "with": behind}
            for server in servers.values():
                warm(net, server.target, RAW, 2.0 if quick else None)
            taken = {many: _taken(graph, servers, many, rounds) for many in _RUNS}
    figures = {}
    for many, measure, key in ((1, "p50_ms", "edge.c1.p50"), (32, "rate", "edge.c32.rate")):
        pairs = zip(*(taken[many][name] for name in ("with", "without")), strict=True)
        figures[key] = statistics.median(a[measure] / b[measure] for a, b in pairs)
        for name, runs in taken[many].items():
            figures[f"{key}.{name}"] = statistics.median(run[measure] for run in runs)
    if quick:
        print(figures)
    else:
        publish("edge", figures, {str(many): runs for many, runs in taken.items()})


def _taken(
    graph: Path, servers: dict[str, Ours], many: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """What each round of each server saw, one right after the other; every answer is checked to be one."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for turn in range(rounds):
        asked = questions(Bare(graph), SHAPES[NAME], _RUNS[many], turn)
        for name in list(servers) if turn % 2 else list(servers)[::-1]:
            seen = load(servers[name].target.port, asked.requests(servers[name].target, RAW), many)
            if (seen.status != 200).any():
                raise SystemExit(f"{name}: {int((seen.status != 200).sum())} requests got an error")
            p50, p99 = np.percentile(seen.latency, (50, 99)) * 1e3
            found[name].append({"rate": seen.rate, "p50_ms": float(p50), "p99_ms": float(p99)})
    return found


if __name__ == "__main__":
    main()
