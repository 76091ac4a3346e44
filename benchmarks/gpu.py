"""``make bench-gpu``: what serving costs on a GPU, as ratios inside this run, medians of interleaved rounds.

784-2000-2000 in ten tasks with a router, 32 raw float32 requests a batch. ``gpu.one_pass``: time of routed
requests against the same ones with their task given, whose graph has the trunk and the heads alone; near
1 says that routing needs no second pass. ``gpu.vs_bare``: throughput of the whole handler against
``session.run`` of the same graph on the same GPU, arrays in and out. ``gpu.vs_cpu``: throughput of the
handler against the handler on one thread of the CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.graphs import equal_tasks, ratio
from benchmarks.report import device as cpu
from benchmarks.report import publish
from eideticnet import EideticNetwork
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.models import mlp

sys.path.insert(0, str(Path(__file__).parents[1] / "handlers"))  # as TorchServe imports them
from eidetic_handler import EideticHandler
from ts.context import Context, RequestProcessor

TASKS, BATCH, ROUNDS = 10, 32, 101
RAW = {"Content-Type": "application/octet-stream", "explain": "False"}


class Worker:
    """The handler as TorchServe's worker calls it, with ``rows`` (N, *shape) as N raw requests."""

    def __init__(self, folder: Path, device: str, rows: Any) -> None:
        bundle = json.loads((folder / "bundle.json").read_text())
        self._context = Context(bundle["name"], str(folder), None, len(rows), None, "")
        self._context.model_yaml_config = {"handler": {"device": device}}
        self.handler = EideticHandler()
        self.handler.initialize(self._context)
        self._bodies = [bytearray(row.tobytes()) for row in rows]

    def ask(self) -> list[bytes]:
        self._context.request_processor = [RequestProcessor(dict(RAW)) for _ in self._bodies]
        self._context.request_ids = {i: str(i) for i in range(len(self._bodies))}
        return self.handler.handle([{"body": body} for body in self._bodies], self._context)


def network() -> EideticNetwork:
    """2,200 neurons a layer: 2,000 of the ten tasks and 200 of the router."""
    return equal_tasks(mlp(784, (2200, 2200)), (784,), TASKS, router=True)


def figures(
    net: EideticNetwork, device: str, batch: int = BATCH, rounds: int = ROUNDS
) -> tuple[dict[str, float], dict[str, Any]]:
    """The three keys on ``device``, and milliseconds of each run. ``RuntimeError`` if it can't be had."""
    rows = np.random.default_rng(0).random((batch, *net.inputs.shape), np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_bundle(net, folder, name="bench", model_version="1", prefixes=(len(net.tasks),))
        served, on_cpu = (Worker(folder, where, rows) for where in (device, "cpu"))
        if served.handler.model.graph.device != device:
            raise RuntimeError(served.handler.model.graph.problem)
        bare = _bare(folder / "model.onnx", device)
    threshold = np.zeros(batch, np.float32)
    routed, given = np.full(batch, -1), np.full(batch, len(net.tasks) - 1)
    runs: dict[str, Callable[[], Any]] = {
        "routed": lambda: served.handler.model.graph(rows, routed, threshold),
        "given": lambda: served.handler.model.graph(rows, given, threshold),
        "bare": lambda: bare([rows, routed, threshold]),
        "handler": served.ask,
        "cpu": on_cpu.ask,
    }
    taken = times(runs, rounds)
    found = {
        "gpu.one_pass": ratio(taken, "routed", "given"),
        "gpu.vs_bare": ratio(taken, "bare", "handler"),
        "gpu.vs_cpu": ratio(taken, "cpu", "handler"),
    }
    spread = {
        name: dict(zip(("p10", "p50", "p90"), np.percentile(v, (10, 50, 90)) * 1e3, strict=True))
        for name, v in taken.items()
    }
    return found, {"batch": batch, "rounds": rounds, "milliseconds": spread}


def _bare(path: Path, device: str) -> Callable[[list[Any]], Any]:
    """ONNX Runtime as one would call it first: arrays in, arrays out, no buffers kept."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    cuda = ["CUDAExecutionProvider"] if device == "cuda" else []
    session = onnxruntime.InferenceSession(str(path), options, providers=[*cuda, "CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def times(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, in turns, so that a busy machine slows all alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 5):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 5:  # the first ones warm up
                taken[name].append(time.perf_counter() - start)
    return taken


def gpu() -> str:
    """The name of the first GPU, as the driver tells it."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    """Publish the figures, or say why there are none."""
    torch.set_num_threads(1)
    try:
        found, details = figures(network(), "cuda")
    except RuntimeError as error:
        sys.exit(
            f"nothing was measured: {error}. bench-gpu needs a machine with CUDA; make setup ACCELERATOR=gpu"
        )
    publish("gpu", found, details, where=f"{gpu()}; {cpu()}")


if __name__ == "__main__":
    main()
