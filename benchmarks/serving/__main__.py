"""``python -m benchmarks.serving``: all sections, or those named by ``--only``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import RESULTS, publish
from benchmarks.serving.client import load
from benchmarks.serving.compare import LATENCY, Net, Runs, compare, console, medians, ratio, servers
from benchmarks.serving.hotload import VERSIONS, hotload
from benchmarks.serving.nets import PLAIN, SHAPES, pack
from benchmarks.serving.payloads import JSON, RAW, Bare, questions
from benchmarks.serving.plot import draw
from benchmarks.serving.servers import ours

Figures = dict[str, float]
Details = dict[str, Any]
Section = Callable[[dict[str, Net], Path], tuple[Figures, Details]]


def raw(nets: dict[str, Net], home: Path) -> tuple[Figures, Details]:
    """Raw float32 at 1, 8 and 32 connections."""
    figures, details = Figures(), Details()
    with servers(nets["mlp"], home, ("mosec", "fastapi", LATENCY), RAW) as targets:
        for connections, count in ((1, 400), (8, 2000), (32, 4000)):
            runs = compare(nets["mlp"], targets, RAW, connections, count, bare=connections == 32)
            _add(figures, details, f"raw.c{connections}.vs_mosec", runs, ("ours", "mosec", "rate"))
            if connections == 1:
                _add(figures, details, "raw.c1.p50_vs_fastapi", runs, ("ours", "fastapi", "p50_ms"))
                latency = (LATENCY, "fastapi", "p50_ms")
                _add(figures, details, "raw.c1.p50_vs_fastapi.latency_profile", runs, latency)
    return figures, details


def json_bodies(nets: dict[str, Net], home: Path) -> tuple[Figures, Details]:
    """JSON at 32 connections."""
    figures, details = Figures(), Details()
    with servers(nets["mlp"], home, ("mosec", "fastapi"), JSON) as targets:
        runs = compare(nets["mlp"], targets, JSON, 32, 3000)
    _add(figures, details, "json.c32.vs_mosec", runs, ("ours", "mosec", "rate"))
    return figures, details


def resnet18(nets: dict[str, Net], home: Path) -> tuple[Figures, Details]:
    """Images of 3x64x64 as raw float32 at 32 connections, against ONNX Runtime at batch 32."""
    figures, details = Figures(), Details()
    with servers(nets["resnet18"], home, (), RAW) as targets:
        runs = compare(nets["resnet18"], targets, RAW, 32, 320, bare=True)
    _add(figures, details, "resnet18.c32.vs_bare", runs, ("ours", "bare", "rate"))
    return figures, details


def served(nets: dict[str, Net], home: Path) -> tuple[Figures, Details]:
    """MNIST-5 with its router on this server against its plain network on mosec, raw float32 at 32
    connections."""
    figures, details = Figures(), Details()
    others = {"mosec": Net(PLAIN, nets["mnist5"].folder)}
    with servers(nets["mnist5"], home, ("mosec",), RAW, others) as targets:
        runs = compare(nets["mnist5"], targets, RAW, 32, 20_000, others=others)  # seconds of so small a net
    _add(figures, details, "served.vs_plain", runs, ("ours", "mosec", "rate"))
    return figures, details


def start(nets: dict[str, Net], home: Path) -> tuple[Figures, Details]:
    """Seconds from ``eidetic serve`` to the first answer, the median of three."""
    seconds, net = [], nets["mlp"]
    asked = questions(Bare(net.graph), SHAPES["mlp"], 1, seed=0)
    for turn in range(3):
        with ours(net.archive(), home.with_name(f"start-{turn}")) as server:
            load(server.target.port, asked.requests(server.target, RAW), 1)
            seconds.append(time.perf_counter() - server.started)
        console.print(f"first answer after {seconds[-1]:.2f} s")
    return {"start.seconds": sorted(seconds)[1]}, {"start.seconds": seconds}


def _add(figures: Figures, details: Details, key: str, runs: Runs, of: tuple[str, str, str]) -> None:
    spread = ratio(runs, *of)
    figures[key] = spread["median"]
    details[key] = {"spread": spread, "medians": medians(runs), "rounds": runs}


SECTIONS: dict[str, Section] = {
    "raw": raw,
    "json": json_bodies,
    "resnet18": resnet18,
    "served": served,
    "start": start,
    "hotload": hotload,
}


def main() -> None:
    """Run the sections; those that are not asked for keep the figures that they had."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--nets", type=Path, help="keep the exported networks here, and take them from here")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    kept = RESULTS / "serving.json"
    before = json.loads(kept.read_text()) if kept.exists() else {"figures": {}, "details": {}}
    figures, details = dict(before["figures"]), dict(before["details"])
    with tempfile.TemporaryDirectory(prefix="eidetic-bench-") as scratch:
        nets = _packed(chosen.nets or Path(scratch), chosen.only)
        for name in chosen.only:
            console.rule(name)
            found, more = SECTIONS[name](nets, Path(scratch) / f"home-{name}")
            figures |= found
            details |= more
            publish("serving", figures, details)
    draw(details)


def _packed(folder: Path, only: list[str]) -> dict[str, Net]:
    folder.mkdir(parents=True, exist_ok=True)
    needed = {"resnet18": "resnet18" in only, "mnist5": "served" in only}
    needed["mlp"] = bool(set(only) - {"resnet18", "served"})
    nets = {name: Net(name, folder) for name in needed}
    for name, net in nets.items():
        if needed[name] and not net.archive(VERSIONS[-1]).exists():
            console.print(f"exporting {name}")
            pack(name, folder, VERSIONS)
    return nets


if __name__ == "__main__":
    main()
