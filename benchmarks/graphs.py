"""Graphs to measure: networks of equal frozen blocks, their dense twins, and what a graph multiplies."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper, shape_inference
from torch import nn

from eideticnet import EideticNetwork, Inputs
from eideticnet.block import Block
from eideticnet.decision import FittedRouting
from eideticnet.export.graph.session import Run
from eideticnet.export.graph.tail import TailRule, X, attach, logits_name
from eideticnet.export.lowering.body import Body, example, owners
from eideticnet.export.lowering.paged import PagedBody, dense
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.pages.laying import exact
from eideticnet.program import HEAD
from eideticnet.slots import Page

CLASSES = 2
CALLS = 10
Profile = dict[str, float]


def equal_tasks(trunk: nn.Module, shape: tuple[int, ...], tasks: int, router: bool = False) -> EideticNetwork:
    """``trunk`` cut into equal frozen blocks of random weights, one for each task; the router, if any,
    has one of them too."""
    return cut_tasks(trunk, shape, [1 / (tasks + router)] * tasks, router)


def cut_tasks(
    trunk: nn.Module, shape: tuple[int, ...], shares: Sequence[float], router: bool = False
) -> EideticNetwork:
    """The same with blocks that have these ``shares`` of each group; the router has what is left."""
    torch.manual_seed(0)
    x, tasks = torch.rand(2, *shape), len(shares)
    net = EideticNetwork(trunk, x, inputs=Inputs(shape, low=0.0, high=1.0))
    names = [f"t{i}" for i in range(tasks)] + [ROUTER] * router
    each = [*shares, *[1 - sum(shares)] * router]
    widths = {
        owner: {group: int(width * share + 1e-6) for group, width in net.program.groups.items()}
        | {HEAD: CLASSES * tasks if owner == ROUTER else CLASSES}
        for owner, share in zip(names, each, strict=True)
    }
    blocks = [Block(net.program, o, tuple(names[:i]), widths) for i, o in enumerate(names)]
    for block in blocks:
        block.freeze()
    learned = [Task(f"task {o}", o, ("a", "b"), x.clone()) for o in names[:tasks]]
    routing = FittedRouting("block", "joint") if router else FittedRouting("none", "entropy")
    net.learned = Learned(learned, blocks, routing=routing)
    return net


def nested_body(net: EideticNetwork) -> onnx.ModelProto:
    """The network's body in blocks."""
    return to_onnx(Body(net).eval(), example(net), owners(net))


def routed(net: EideticNetwork) -> onnx.ModelProto:
    """The whole graph in blocks, with the tail that routes and answers."""
    return attach(nested_body(net), rule(net))


def rule(net: EideticNetwork) -> TailRule:
    """By what the network chooses a head."""
    routing = net.learned.routing
    assert routing is not None
    heads = tuple(logits_name(task.owner) for task in net.tasks)
    counts = tuple(len(task.classes) for task in net.tasks)
    router = routing.router != "none"
    return TailRule(heads, counts, routing.decision, router, routing.temperature, routing.head_temperatures)


def dense_body(net: EideticNetwork) -> onnx.ModelProto:
    """The dense network of the same numbers, zeros where a block does not read."""
    return _body(net, dense(net))


def paged_body(net: EideticNetwork, pages: Sequence[Page] | None = None) -> onnx.ModelProto:
    """The network's body in pages, in its own ones unless others are given."""
    return _body(net, PagedBody(net, pages))


def _body(net: EideticNetwork, body: PagedBody) -> onnx.ModelProto:
    body.by_page = True
    return to_onnx(body.eval(), example(net), owners(net), body.joined)


def in_pages(net: EideticNetwork, count: int) -> list[Page]:
    """All tasks in ``count`` pages without a free slot, about as many in each."""
    blocks = [net.learned.block(task.owner) for task in net.learned.tasks]
    parts = [blocks[len(blocks) * n // count : len(blocks) * (n + 1) // count] for n in range(count)]
    return [exact(part, range(n)) for n, part in enumerate(part for part in parts if part)]


def one_output(body: onnx.ModelProto) -> onnx.ModelProto:
    """All logits side by side, so that fetching them costs all layouts the same. Where they are cut out of
    the outputs of pages, those outputs are taken as they are."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    graph, names = model.graph, [output.name for output in body.graph.output]
    for node in [n for n in graph.node if n.op_type == "Split" and set(n.output) & set(names)]:
        names = [node.input[0], *(name for name in names if name not in node.output)]
        graph.node.remove(node)
    graph.node.append(helper.make_node("Concat", names, ["all"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("all", onnx.TensorProto.FLOAT, ["batch", None]))
    return model


def multiply_adds(model: onnx.ModelProto) -> int:
    """Multiplications of the matrix products and convolutions for one row."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = shape_inference.infer_shapes(fixed).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*inferred.value_info, *inferred.output, *inferred.input)
    }
    shapes |= {t.name: list(t.dims) for t in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type in ("Gemm", "Conv"):
            weight = shapes[node.input[1]]
            total += math.prod(shapes[node.output[0]]) * math.prod(weight) // _written(node, weight)
    return total


def _written(node: onnx.NodeProto, weight: list[int]) -> int:
    """Columns that a layer writes, by the shape of its weight."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return weight[0] if node.op_type == "Conv" or transposed else weight[1]


def times(
    runs: Mapping[str, Run], inputs: Mapping[str, npt.NDArray[np.generic]], rounds: int, calls: int = CALLS
) -> dict[str, list[float]]:
    """Seconds of a call of each run, in turns, so that a busy machine slows all alike. A turn is the mean
    of ``calls`` in a row: a graph that is served finds its weights where its last call left them. With
    one call to a turn, each graph finds that the other's pushed them out of the cache."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(calls):
                run(inputs)
            if turn >= 3:  # the first ones warm up
                taken[name].append((time.perf_counter() - start) / calls)
    return taken


def ratio(taken: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(taken[one], taken[other], strict=True))


def layouts(net: EideticNetwork) -> dict[str, onnx.ModelProto]:
    """The bodies of both layouts, each with one output."""
    return {"nested": one_output(nested_body(net)), "dense": one_output(dense_body(net))}


def profile(model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[np.generic]], rounds: int) -> Profile:
    """Microseconds of each kind of operator in a run, medians summed, and what the run takes beside
    them: scheduling, memory, and the profiler itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        loaded = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(rounds):
            loaded.run(None, dict(inputs))
        events = json.loads(Path(loaded.end_profiling()).read_text())
    taken: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event["name"].endswith("_kernel_time") or event["name"] == "model_run":
            kind = event.get("args", {}).get("op_name", "run")
            taken.setdefault((kind, event["name"]), []).append(event["dur"])
    found: Profile = {}
    for (kind, _), durations in taken.items():
        found[kind] = found.get(kind, 0.0) + statistics.median(durations)
    return {**found, "beside": found["run"] - sum(v for k, v in found.items() if k != "run")}


def rows(net: EideticNetwork, count: int) -> dict[str, npt.NDArray[np.generic]]:
    """Random inputs of a body."""
    return {X: np.random.default_rng(0).random((count, *net.inputs.shape), np.float32)}
