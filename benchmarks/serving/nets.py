"""The networks that are served: equal blocks of random weights, and MNIST-5 as ``make bench-routing`` trained
it beside its plain network, exported and packed as any other."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import onnx
import torch
from onnx import helper
from torch import nn

from benchmarks import answers
from benchmarks.graphs import equal_tasks
from benchmarks.problems import DATA, problems
from benchmarks.report import RESULTS
from eideticnet import EideticNetwork
from eideticnet.export.archive.releases import HANDLERS
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.graph.tail import PINNED, THRESHOLD
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.models import mlp, resnet18

PLAIN = "mnist5-plain"
SHAPES = {"mlp": (784,), "resnet18": (3, 64, 64), "mnist5": (784,), PLAIN: (784,)}
TASKS = {"mlp": 10, "resnet18": 5}


def trunk(name: str) -> nn.Module:
    """784-2000-2000, or ResNet-18 as usual."""
    torch.manual_seed(0)
    return mlp(784, (2000, 2000)) if name == "mlp" else resnet18()


def pack(name: str, store: Path, versions: tuple[str, ...] = ("1.0",)) -> Path:
    """Write STORE/NAME-VERSION.mar for each version, all of one graph; the path of that graph."""
    net = equal_tasks(trunk(name), SHAPES[name], TASKS[name], router=True) if name in TASKS else routed(store)
    graph = store / f"{name}.onnx"
    for version in versions:
        with tempfile.TemporaryDirectory(prefix="eidetic-bundle-") as folder:
            write_bundle(net, Path(folder), name=name, model_version=version)
            write_archive(Path(folder), HANDLERS, store / f"{name}-{version}.mar")
            shutil.copyfile(Path(folder) / "model.onnx", graph)
    return graph


def routed(store: Path) -> EideticNetwork:
    """MNIST-5 as ``make bench-routing`` published it, from its cache or trained as there; its plain network
    is left in ``store`` as a graph."""
    found = [problem for problem in problems() if problem.name == "mnist5"]
    if not found:
        raise SystemExit(f"served.vs_plain needs MNIST: {DATA} has to name its folder")
    (problem,) = found
    answers.run(problem, problem.seeds[0])
    published = json.loads((RESULTS / "routing.json").read_text())["details"]["published"]
    body = to_onnx(answers.of_plain(problem), torch.zeros(3, problem.pixels), ["plain"])
    (store / f"{PLAIN}.onnx").write_bytes(as_served(body).SerializeToString())
    return EideticNetwork.load(answers.folder(problem, problem.seeds[0], published["mnist5"]))


def as_served(body: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that takes the same inputs as an exported one: of one task, whose label is the greatest
    logit."""
    model, graph = body, body.graph
    (logits,) = (output.name for output in graph.output)
    zero = helper.make_tensor("no_task", onnx.TensorProto.INT64, [1], [0])
    graph.initializer.append(zero)
    graph.node.extend(
        [
            helper.make_node("ArgMax", [logits], ["label"], axis=1, keepdims=0),
            helper.make_node("Mul", ["label", "no_task"], ["task"]),
            *(helper.make_node("Identity", [logits], [name]) for name in ("task_probs", "label_probs")),
        ]
    )
    kinds = {"task": onnx.TensorProto.INT64, "label": onnx.TensorProto.INT64}
    values = helper.make_tensor_value_info
    del graph.output[:]
    graph.output.extend(values(name, kind, ["batch"]) for name, kind in kinds.items())
    graph.output.extend(
        values(name, onnx.TensorProto.FLOAT, ["batch", None]) for name in ("task_probs", "label_probs")
    )
    graph.input.extend(
        [
            values(PINNED, onnx.TensorProto.INT64, ["batch"]),
            values(THRESHOLD, onnx.TensorProto.FLOAT, ["batch"]),
        ]
    )
    return model
