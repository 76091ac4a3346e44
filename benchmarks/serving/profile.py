"""``python -m benchmarks.serving.profile``: where a request's time goes, in this server and in mosec.

Processor time of every thread at 32 connections, the graph's own share, and, by the recorder in the Java that
is shipped, what the front end's threads were doing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import publish
from benchmarks.serving.client import Target, load
from benchmarks.serving.compare import WARM_SECONDS, Net, console
from benchmarks.serving.nets import SHAPES, pack
from benchmarks.serving.payloads import RAW, Bare, Questions, questions
from benchmarks.serving.servers import ours, peer
from benchmarks.serving.threads import java, spent
from eideticnet.serving.home.running import Running

_ROUNDS, _COUNT, _CONNECTIONS = 5, 6000, 32
_RECORDING = ("jdk.CPUTimeSample#enabled=true", "jdk.CPUTimeSample#throttle=2ms")
_DOES = {
    "answers written to clients": ("AbstractChannelHandlerContext$WriteTask.run",),
    "requests read, parsed and queued": ("AbstractEpollStreamChannel$EpollStreamUnsafe.epollInReady",),
    "waiting for sockets": ("Native.epollWait", "EpollEventLoop.epollWait"),
    "the worker's thread: batches, answers": ("WorkerThread.run",),
    "handed over to the worker": ("ForkJoinWorkerThread.run",),
}
"""What a sample is of: the first of these with one of its methods in the stack."""


def parts(target: Target, asked: Questions) -> dict[str, float]:
    """Microseconds of processor time a request by group of threads, and requests a second."""
    before = spent(target.process)
    seen = load(target.port, asked.requests(target, RAW), _CONNECTIONS)
    after, count = spent(target.process), len(seen.bodies)
    client = {"client": 1e6 * seen.client_cpu / count, "rate": seen.rate}
    return {name: 1e6 * (after[name] - before.get(name, 0.0)) / count for name in after} | client


def stacks(target: Target, asked: Questions, folder: Path) -> dict[str, float]:
    """Shares of the front end's processor time, by what it did, while ``asked`` is answered."""
    file = folder / "front-end.jfr"
    front = java(target.process)
    program = front.exe()
    jcmd = [program, "-m", "jdk.jcmd/sun.tools.jcmd.JCmd", str(front.pid)]
    _run(*jcmd, "JFR.start", "name=front", "settings=profile", f"filename={file}", *_RECORDING)
    for _ in range(_ROUNDS):
        load(target.port, asked.requests(target, RAW), _CONNECTIONS)
    _run(*jcmd, "JFR.stop", "name=front")
    reader = (
        program,
        "-m",
        "jdk.jfr/jdk.jfr.internal.tool.Main",
        "print",
        "--json",
        "--stack-depth",
        "60",
    )
    events = json.loads(_run(*reader, "--events", "jdk.CPUTimeSample", str(file)))["recording"]["events"]
    found = Counter(_what(event["values"].get("stackTrace") or {"frames": []}) for event in events)
    return {what: count / found.total() for what, count in found.most_common()}


def _what(trace: dict[str, Any]) -> str:
    methods = [frame["method"] for frame in trace["frames"]]
    names = [f"{m['type']['name'].replace('/', '.').rpartition('.')[2]}.{m['name']}" for m in methods]
    return next((what for what, any_of in _DOES.items() if set(any_of) & set(names)), "the rest")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def batches(home: Path) -> float:
    """The mean number of requests in a batch of this server so far."""
    url = Running.read(home / "server.json").control + "/metrics"
    with urllib.request.urlopen(url) as page:
        lines = [line.split() for line in page.read().decode().splitlines()]
    total, count = (
        sum(
            float(line[-1]) for line in lines if line and line[0].startswith(f"eidetic_batch_requests_{what}")
        )
        for what in ("sum", "count")
    )
    return total / count


def graph_us(alone: Bare, asked: Questions, batch: int) -> float:
    """Processor time of bare ONNX Runtime for each of ``batch`` rows, in microseconds, the median."""
    taken = []
    for i in range(0, len(asked.x) - batch, batch):
        start = time.thread_time()
        alone(asked.x[i : i + batch], ("task", "label", "task_probs", "label_probs"))
        taken.append(1e6 * (time.thread_time() - start) / batch)
    return statistics.median(taken)


def main() -> None:
    """Measure both servers in turns; one result."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="eidetic-profile-") as scratch:
        folder = Path(scratch)
        pack("mlp", folder)
        net, alone = Net("mlp", folder), Bare(folder / "mlp.onnx")
        with ours(net.archive(), folder / "home") as mine, peer("mosec", net.graph, json=False) as mosec:
            targets = {"ours": mine.target, "mosec": mosec}
            asked = questions(alone, SHAPES["mlp"], _COUNT, seed=0)
            for target in targets.values():
                end = time.perf_counter() + WARM_SECONDS
                load(target.port, asked.requests(target, RAW), _CONNECTIONS, stop=_past(end))
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
            for turn in range(_ROUNDS):
                asked = questions(alone, SHAPES["mlp"], _COUNT, seed=1 + turn)
                for name, target in targets.items():
                    runs[name].append(parts(target, asked))
                    console.print(name, {key: round(value) for key, value in runs[name][-1].items()})
            mean = batches(mine.home)
            shares = stacks(mine.target, asked, folder)
        graph = {f"graph.batch{size}": graph_us(alone, asked, size) for size in (8, 16, 32)}
    _publish(runs, shares, graph | {"ours.batch": mean})


def _past(end: float) -> Any:
    return lambda: time.perf_counter() > end


def _publish(
    runs: dict[str, list[dict[str, float]]], shares: dict[str, float], more: dict[str, float]
) -> None:
    figures = {
        f"{name}.{key}": statistics.median(run[key] for run in taken)
        for name, taken in runs.items()
        for key in taken[0]
    }
    publish("serving_profile", figures | more, {"front_end": shares, "rounds": runs})


if __name__ == "__main__":
    main()
