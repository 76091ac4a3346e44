"""``make bench-ray``: this server on Ray Serve beside mosec, FastAPI and TorchServe, all on the same graph.

Also what Ray costs that does nothing for an answer: seconds until the first one, and memory.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks import capacity
from benchmarks.report import RESULTS, publish
from benchmarks.serving.client import Target, load
from benchmarks.serving.compare import ALONE, RAY, Net, Runs, compare, console, medians, ratio, servers
from benchmarks.serving.nets import SHAPES, pack
from benchmarks.serving.payloads import JSON, RAW, Bare, questions
from benchmarks.serving.servers import ours

Figures = dict[str, float]
Details = dict[str, Any]
_PEERS = ("mosec", "fastapi", RAY)
_REPLICA = "ray::ServeReplica"
_MEGABYTE = 1 << 20


def raw(net: Net, home: Path) -> tuple[Figures, Details]:
    """Raw float32 at 1, 8 and 32 connections, also of the replica alone, without the proxy before it."""
    figures, details = Figures(), Details()
    with servers(net, home, _PEERS, RAW) as targets:
        targets[ALONE] = _alone(targets[RAY])
        for connections, count in ((1, 400), (8, 2000), (32, 4000)):
            runs = compare(net, targets, RAW, connections, count, bare=connections == 32)
            rates = _rates(figures, details, f"c{connections}", runs)
            if connections == 1:
                rates("p50_vs_fastapi", "fastapi", "p50_ms")
        figures["memory.mb"] = details["memory.mb"] = _megabytes(targets[RAY].process)
    return figures, details


def json_bodies(net: Net, home: Path) -> tuple[Figures, Details]:
    """JSON at 32 connections."""
    figures, details = Figures(), Details()
    with servers(net, home, _PEERS, JSON) as targets:
        _rates(figures, details, "json.c32", compare(net, targets, JSON, 32, 3000))
    return figures, details


def start(net: Net, home: Path) -> tuple[Figures, Details]:
    """Seconds from ``eidetic serve`` to the first answer, the median of three."""
    seconds, asked = [], questions(Bare(net.graph), SHAPES[net.name], 1, seed=0)
    for turn in range(3):
        with ours(net.archive(), home.with_name(f"start-{turn}"), "--engine", RAY) as server:
            load(server.target.port, asked.requests(server.target, RAW), 1)
            seconds.append(time.perf_counter() - server.started)
        console.print(f"first answer after {seconds[-1]:.2f} s")
    return {"start.seconds": sorted(seconds)[1]}, {"start.seconds": seconds}


def _rates(figures: Figures, details: Details, key: str, runs: Runs) -> Callable[[str, str, str], None]:
    """Write down what Ray Serve did beside the others; what is returned writes down another ratio."""
    details[key] = {"medians": medians(runs), "rounds": runs, "spread": {}}

    def add(name: str, other: str, what: str) -> None:
        spread = details[key]["spread"][name] = ratio(runs, RAY, other, what)
        figures[f"{key}.{name}"] = spread["median"]

    for name, other in (("vs_mosec", "mosec"), ("vs_fastapi", "fastapi"), ("vs_torchserve", "ours")):
        add(name, other, "rate")
    return add


def _tree(process: int) -> list[psutil.Process]:
    top = psutil.Process(process)
    return [top, *top.children(recursive=True)]


def _alone(target: Target) -> Target:
    """The replica behind ``target``, by the port at which it listens itself."""
    (replica,) = [p for p in _tree(target.process) if " ".join(p.cmdline()).startswith(_REPLICA)]
    for connection in replica.net_connections("tcp"):
        with_http = replace(target, port=connection.laddr.port)
        if connection.status == psutil.CONN_LISTEN and _answers(with_http):
            return with_http
    raise SystemExit("the replica listens nowhere")


def _answers(target: Target) -> bool:
    """Whether that is HTTP, and not one of Ray's own ports."""
    try:
        seen = load(target.port, [target.request(b"", RAW)], 1, patience=2.0)
    except (OSError, ConnectionError, TimeoutError, ValueError):
        return False
    return int(seen.status[0]) == 400


def _megabytes(process: int) -> float:
    """What a server and all that it started hold, shared pages shared out."""
    return float(sum(each.memory_full_info().pss for each in _tree(process))) / _MEGABYTE


SECTIONS: dict[str, Callable[[Net, Path], tuple[Figures, Details]]] = {
    "raw": raw,
    "json": json_bodies,
    "start": start,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections; those that are not asked for keep the figures that they had."""
    parser = argparse.ArgumentParser(prog="benchmarks.ray", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    kept = RESULTS / "ray.json"
    with tempfile.TemporaryDirectory(prefix="eidetic-bench-") as scratch:
        net = Net("mlp", Path(scratch))
        pack(net.name, net.folder)
        for name in chosen.only:
            console.rule(name)
            found, more = SECTIONS[name](net, Path(scratch) / f"home-{name}")
            before = json.loads(kept.read_text()) if kept.exists() else {"figures": {}, "details": {}}
            publish("ray", before["figures"] | found, before["details"] | more)
    capacity.PAGE.write_text(capacity.page(capacity.PAGE.read_text()))


if __name__ == "__main__":
    main()
