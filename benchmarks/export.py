"""``make bench-export``: what nested blocks cost in ONNX Runtime, one thread, as ratios inside this run.

``nested.*``: nested against the dense network of the same numbers, zeros where a block does not read;
``.limit`` is the ratio of their multiply-adds, ``.cold`` that of times where the two take turns call by
call, so that each finds its weights pushed out of the cache. ``pruned.digits5``: the trained and pruned
digits network against one as wide as its trunk. What a routed answer costs: ``make bench-routing``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.graphs import (
    dense_body,
    equal_tasks,
    layouts,
    multiply_adds,
    profile,
    ratio,
    routed,
    rows,
    rule,
    times,
)
from benchmarks.report import publish
from benchmarks.train import INPUTS, PRUNING, TASKS, TRAINING, Split
from eideticnet import EideticNetwork, Routing
from eideticnet.export.graph.session import session
from eideticnet.export.graph.tail import PINNED, THRESHOLD, attach
from eideticnet.models import convnet, mlp, resnet50

ROUNDS = 101


def mlp_ratios() -> tuple[dict[str, float], dict[str, Any]]:
    """784-2000-2000 in ten equal tasks at batch 1, 8 and 32."""
    net = equal_tasks(mlp(784, (2000, 2000)), (784,), 10)
    return _ratios("nested.mlp", net, (1, 8, 32), ROUNDS)


def conv_ratios() -> tuple[dict[str, float], dict[str, Any]]:
    """Four 3x3 convolutions of 160 channels on 32x32 images in five equal tasks at batch 8."""
    net = equal_tasks(convnet(3, (160,) * 4, pool_every=9), (3, 32, 32), 5)
    return _ratios("nested.conv", net, (8,), 11)


def _ratios(
    name: str, net: EideticNetwork, batches: tuple[int, ...], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    models = layouts(net)
    limit = multiply_adds(models["nested"]) / multiply_adds(models["dense"])
    runs = {name: session(model) for name, model in models.items()}
    figures, details = dict[str, float](), dict[str, Any]()
    for batch in batches:
        taken = times(runs, rows(net, batch), rounds)
        figures[f"{name}.b{batch}"] = ratio(taken, "nested", "dense")
        figures[f"{name}.b{batch}.limit"] = limit
        cold = times(runs, rows(net, batch), rounds, calls=1)
        figures[f"{name}.b{batch}.cold"] = ratio(cold, "nested", "dense")
        details[f"{name}.b{batch}"] = {
            layout: {
                "milliseconds": dict(
                    zip(("p10", "p50", "p90"), np.percentile(v, (10, 50, 90)) * 1e3, strict=True)
                ),
                "profile_us": profile(models[layout], rows(net, batch), rounds),
            }
            for layout, v in taken.items()
        }
    return figures, details


def _digits() -> EideticNetwork:
    split = Split.of(0)
    net = EideticNetwork(mlp(64), split.x[:2], inputs=INPUTS, seed=0)
    loaders = {}
    for digits in TASKS:
        loaders[str(digits)] = split.task(digits)
        net.train_task(str(digits), loaders[str(digits)], ["a", "b"], pruning=PRUNING, training=TRAINING)
    net.fit_router(loaders, routing=Routing("block", "joint", PRUNING, width="free"), training=TRAINING)
    return net


def digits_ratios(batch: int = 8) -> tuple[dict[str, float], dict[str, Any]]:
    """Trained in five tasks and pruned, against a dense network that keeps its trunk's full width."""
    pruned = _digits()
    full = equal_tasks(mlp(64), (64,), 5, router=True)  # 252 of 256 neurons, 42 for each
    graphs = {"pruned": routed(pruned), "full": attach(dense_body(full), rule(full))}
    inputs = _requests(rows(full, batch), routed=True)
    taken = times({name: session(graph) for name, graph in graphs.items()}, inputs, ROUNDS)
    sizes = {name: graph.ByteSize() for name, graph in graphs.items()}
    figures = {
        "pruned.digits5.time": ratio(taken, "pruned", "full"),
        "pruned.digits5.size": sizes["pruned"] / sizes["full"],
    }
    return figures, {"pruned.digits5": {"bytes": sizes, "batch": batch}}


def _requests(x: dict[str, Any], routed: bool) -> dict[str, Any]:
    count = len(next(iter(x.values())))
    return {**x, PINNED: np.full(count, -1 if routed else 0), THRESHOLD: np.zeros(count, np.float32)}


def resnet50_export() -> dict[str, float]:
    """Seconds, peak memory and file size of a ResNet-50 of ten equal tasks, exported at 224x224."""
    net = equal_tasks(resnet50(), (3, 224, 224), 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    graph = routed(net)
    data = graph.SerializeToString(deterministic=True)
    return {
        "resnet50.seconds": time.perf_counter() - start,
        "resnet50.peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
        "resnet50.before_gib": before / (1 << 20),
        "resnet50.file_gib": len(data) / (1 << 30),
    }


def _in_a_process_of_its_own() -> dict[str, float]:
    """Peak memory is that of a whole process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.export", "resnet50"], stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Publish all figures."""
    torch.set_num_threads(1)
    if sys.argv[1:] == ["resnet50"]:
        print(json.dumps(resnet50_export()))
        return
    figures, details = dict[str, float](), dict[str, Any]()
    with Progress(console=Console(stderr=True)) as progress:
        for part in progress.track([mlp_ratios, conv_ratios, digits_ratios], description="graphs"):
            found, more = part()
            figures |= found
            details |= more
    figures |= _in_a_process_of_its_own()
    publish("export", figures, details)


if __name__ == "__main__":
    main()
