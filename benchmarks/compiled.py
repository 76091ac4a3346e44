"""``make bench-compiled``: what ``serve --compile`` gains, as ratios inside this run, medians of interleaved
rounds on one thread.

784-2000-2000 in ten tasks with a router, from arrays to answers. ``compiled.b1.vs_pt2``: time of one row
through the graph that AOTInductor compiled, against the same .pt2 as ``torch.export`` loads it;
``.vs_onnx``: against the same network's ONNX graph in ONNX Runtime. ``b32``: a batch of 32.
``compiled.seconds``: compiling.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import network, times
from benchmarks.graphs import ratio
from benchmarks.report import publish
from eidetic_runtime import compiled
from eidetic_runtime.graph import Runs
from eidetic_runtime.onnx_graph import OnnxGraph
from eidetic_runtime.torch_graph import TorchGraph
from eideticnet import EideticNetwork
from eideticnet.export.bundle.graph_file import Format
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.graph.tail import INPUTS

BATCHES, ROUNDS = (1, 32), 201


def figures(net: EideticNetwork, rounds: int = ROUNDS) -> dict[str, float]:
    """The keys, and ``compiled.difference``, the largest of an answer's numbers against the .pt2's."""
    found: dict[str, float] = {}
    rows = np.random.default_rng(0).random((max(BATCHES), *net.inputs.shape), np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        pt2, onnx = _written(net, Path(temporary), "pt2"), _written(net, Path(temporary), "onnx")
        names = json.loads((pt2 / "bundle.json").read_text())["graph"]
        np.save(pt2 / compiled.PROBES, rows)
        graphs: dict[str, Runs] = {"pt2": TorchGraph(pt2 / "model.pt2", "pt2", names, "cpu", 0, 1)}
        began = time.perf_counter()
        name = compiled.compiled_name((pt2 / "model.pt2").read_bytes())
        compiled.compile_graph(pt2, Path(temporary) / f"bench.{name}")
        found["compiled.seconds"] = time.perf_counter() - began
        os.environ[compiled.FOLDER] = temporary
        graphs["compiled"] = TorchGraph(pt2 / "model.pt2", "pt2", names, "cpu", 0, 1)
        graphs["onnx"] = OnnxGraph(onnx / "model.onnx", "cpu", 0, 1)
        for batch in BATCHES:
            inputs = rows[:batch], np.full(batch, -1), np.zeros(batch, np.float32)
            runs = {
                "pt2": partial(graphs["pt2"].run, dict(zip(names["inputs"], inputs, strict=True))),
                "compiled": partial(graphs["compiled"].run, dict(zip(names["inputs"], inputs, strict=True))),
                "onnx": partial(graphs["onnx"].run, dict(zip(INPUTS, inputs, strict=True))),
            }
            taken = times(runs, rounds)
            for other in ("pt2", "onnx"):
                found[f"compiled.b{batch}.vs_{other}"] = ratio(taken, "compiled", other)
        one, two = runs["compiled"](), runs["pt2"]()
        found["compiled.difference"] = max(float(np.abs(one[n] - two[n]).max()) for n in one)
    return found


def _written(net: EideticNetwork, folder: Path, form: Format) -> Path:
    (folder / form).mkdir()
    write_bundle(net, folder / form, name="bench", model_version="1", format=form)
    return folder / form


def main() -> None:
    """Publish the figures."""
    torch.set_num_threads(1)
    publish("compiled", figures(network()), {"rounds": ROUNDS})


if __name__ == "__main__":
    main()
