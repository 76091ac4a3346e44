"""Versions that take over under load: does any request fail, is any answer from a version that was not the
default while it was asked, and what does it do to the slowest answers?"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.serving.client import Load, load
from benchmarks.serving.compare import Names, Net, console
from benchmarks.serving.nets import SHAPES
from benchmarks.serving.payloads import RAW, Bare, Questions, questions
from benchmarks.serving.servers import BENCHMARKS, EIDETIC, Ours, ours

VERSIONS = ("1.0", "2.0")
CLIENTS, DEPLOYS, OPEN_DEPLOYS = 16, 20, 5
_STEADY_SECONDS, _POOL, _SLOW_SECONDS = 10.0, 20_000, 0.5


@dataclass
class Deploys:
    """Deploys one after the other in a thread of their own, and when each new version became the default:
    not before its commit, not after that was read back (``time.perf_counter``)."""

    net: Net
    server: Ours
    count: int
    default: str = VERSIONS[0]
    changes: list[tuple[float, float, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    problem: str = ""

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        for i in range(self.count):
            version = VERSIONS[(VERSIONS.index(self.default) + 1 + i) % 2]
            begun = time.perf_counter()
            command = [EIDETIC, "deploy", str(self.net.archive(version))]
            command += ["--home", str(self.server.home), "--accept-unmeasured-routing"]
            done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True)
            if done.returncode:
                self.problem = done.stderr
                return
            ended = time.perf_counter()
            report = json.loads(Path(done.stdout.split()[-1]).read_text())
            steps = {step["step"]: step["seconds"] for step in report["steps"]}
            last = ended - report["steps"][-1]["seconds"]  # where the report's clock can have begun latest
            self.changes.append((begun + steps["probe"], last + steps["set-default"], version))
            self.seconds.append(ended - begun)
            console.print(f"deploy {i + 1} of {self.count}: {ended - begun:.1f} s")

    def allowed(self, sent: float, answered: float) -> set[str]:
        """The versions that can have been the default at some moment from ``sent`` to ``answered``."""
        found, current = set(), self.default
        for earliest, latest, version in self.changes:
            if sent <= latest:
                found.add(current)
            if answered < earliest:
                break
            current = version
        return found | {current}


def hotload(nets: dict[str, Net], home: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Steady; then with deploys and closed-loop clients; then with deploys at half the rate, open loop."""
    net = nets["mlp"]
    asked = questions(Bare(net.graph), SHAPES["mlp"], _POOL, seed=7)
    with ours(net.archive(), home) as server:
        requests, port = asked.requests(server.target, RAW), server.target.port
        _for(port, requests, 3.0)
        steady = _for(port, requests, _STEADY_SECONDS)
        closed = Deploys(net, server, DEPLOYS)
        thread = closed.start()
        during = load(port, requests, CLIENTS, stop=lambda: not thread.is_alive())
        paced = Deploys(net, server, OPEN_DEPLOYS, VERSIONS[DEPLOYS % 2])
        mean = float(np.mean(closed.seconds or [1.0]))
        due = np.arange(0, OPEN_DEPLOYS * mean, 2 / steady.rate).tolist()
        thread = paced.start()
        opened = load(port, requests, 4 * CLIENTS, due=due)
        thread.join()
    problems = closed.problem + paced.problem
    if problems:
        raise SystemExit(f"a deploy failed: {problems}")
    names, parts = net.names(), {"steady": steady, "closed": during, "open": opened}
    details: dict[str, Any] = {name: _latencies(seen) for name, seen in parts.items()}
    details |= {"deploy_seconds": closed.seconds, "clients": CLIENTS, "open_clients": 4 * CLIENTS}
    details["closed"]["failed"] = failed(asked, during, closed, names)
    details["open"]["failed"] = failed(asked, opened, paced, names)
    figures = {
        "hotload.failed": float(sum(details["closed"]["failed"].values())),
        "hotload.p99_ratio": details["closed"]["p99_ms"] / details["steady"]["p99_ms"],
        "hotload.open.failed": float(sum(details["open"]["failed"].values())),
        "hotload.open.p999_ms": details["open"]["p999_ms"],
        "hotload.open.max_ms": details["open"]["max_ms"],
        "hotload.open.slow": details["open"]["slow"],
    }
    return figures, {"hotload": details}


def _for(port: int, requests: list[bytes], seconds: float) -> Load:
    end = time.perf_counter() + seconds
    return load(port, requests, CLIENTS, stop=lambda: time.perf_counter() > end)


def _latencies(seen: Load) -> dict[str, Any]:
    p50, p99, p999 = np.percentile(seen.latency, (50, 99, 99.9)) * 1e3
    return {
        "requests": len(seen.bodies),
        "rate": seen.rate,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "max_ms": float(seen.latency.max() * 1e3),
        "slow": int((seen.latency > _SLOW_SECONDS).sum()),
    }


def failed(asked: Questions, seen: Load, deploys: Deploys, names: Names) -> dict[str, int]:
    """How many requests got no answer, a wrong one, or one of a version that was not the default."""
    found = Counter({"status": 0, "answer": 0, "version": 0})
    for i, body in enumerate(seen.bodies):
        if seen.status[i] != 200:
            found["status"] += 1
            continue
        answer, k = orjson.loads(body), i % len(asked.x)
        task = int(asked.task[k])
        right = (names[0][task], names[1][task][int(asked.label[k])])
        found["answer"] += (answer["task"], answer["label"]) != right
        allowed = deploys.allowed(float(seen.sent[i]), float(seen.answered[i]))
        found["version"] += answer["model_version"] not in allowed
    return dict(found)
