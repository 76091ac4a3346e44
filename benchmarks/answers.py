"""What a routed answer costs and what it is worth: multiply-adds, time and accuracy, tasks, router and heads
together, against the plain network of the trunk. Part of ``make bench-routing``.

Digits are the network of ``make serve``, everything by default and no validation data; MNIST-5 has some,
and its unpruned router is the product of experts. Points of the curve are routers that are pruned until the
whole answer has that share of the plain network's multiply-adds, on tasks that keep fewer neurons where
the share is small.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.graphs import ratio, routed, rows, times
from benchmarks.problems import NAMES, Problem, Split, served
from benchmarks.routers import CACHE, learn_tasks, votes
from eideticnet import EideticNetwork, Routing
from eideticnet.arithmetic import arithmetic
from eideticnet.block import Block
from eideticnet.decision import decide
from eideticnet.export.onnx_body import to_onnx
from eideticnet.export.session import session
from eideticnet.export.tail import PINNED, THRESHOLD
from eideticnet.learned import ROUTER, Learned
from eideticnet.models import mlp
from eideticnet.program import HEAD
from eideticnet.route.options import LEAST, PRUNED
from eideticnet.rules import with_taps

BATCH, ROUNDS = 32, 301
LEVELS = (1.0, 0.6, 0.3)
CURVE = 0.005
"""What a router of the curve may lose on its way to the width that its share allows."""
DEFAULT, UNPRUNED = "default", "unpruned"


@dataclass(frozen=True)
class Point:
    """A router on tasks that keep ``least`` neurons a layer; ``share``: of the plain network's
    multiply-adds that the whole answer may take, None for what ``routing`` gives."""

    name: str
    least: int
    routing: Routing
    share: float | None = None


def points(problem: Problem) -> list[Point]:
    """All points of a problem; those of equal tasks stand side by side."""
    many, few, fewest = (64, 32, 16) if problem.name == "mnist5" else (1, 1, 1)
    before = Routing("experts" if problem.name == "mnist5" else "taps", pruning=None)
    kept = zip(LEVELS, (many, few, fewest), strict=True)
    curve = [Point(f"{level:g}", n, Routing(), level) for level, n in kept]
    return [Point(UNPRUNED, many, before), Point(DEFAULT, many, Routing()), *curve]


def of(problem: Problem) -> Problem:
    """The network whose answers are measured."""
    return served() if problem.name == "digits5" else problem


def run(problem: Problem, seed: int) -> dict[str, Any]:
    """All points of one seed, from the cache where the recipe is the same; the default's network is kept."""
    path = CACHE / f"{problem.name}-answers-{seed}.json"
    problem = of(problem)
    recipe = f"{problem.recipe()} {points(problem)} {PRUNED} {LEAST}"
    if path.exists() and (cached := json.loads(path.read_text()))["recipe"] == recipe:
        return dict(cached)
    start, split, found = time.perf_counter(), problem.split(seed), list[dict[str, Any]]()
    tasks: dict[int, EideticNetwork] = {}
    for point in points(problem):
        if point.least not in tasks:
            pruned = replace(problem, pruning=replace(problem.pruning, min_width=point.least))
            tasks[point.least], _ = learn_tasks(pruned, seed, split)
        net = tasks[point.least]
        found.append(measured(net, point, problem, split))
        if point.name == DEFAULT:
            net.save(folder(problem, seed))
    result = {"recipe": recipe, "seed": seed, "points": found, "seconds": time.perf_counter() - start}
    CACHE.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return result


def measured(net: EideticNetwork, point: Point, problem: Problem, split: Split) -> dict[str, Any]:
    """Fit one router; its accuracies on both parts and what its answers cost."""
    start, validates = time.perf_counter(), problem.name == "mnist5"
    pruning = point.routing.pruning
    if point.share is not None:
        pruning = replace(PRUNED, threshold=CURVE, min_width=widest(net, point.share))
    net.fit_router(
        split.train.tasks(problem.batch_size),
        routing=replace(point.routing, pruning=pruning),
        validation=split.validation.tasks(problem.batch_size) if validates else {},
        training=problem.training,
    )
    fitted, found = net.learned.routing, dict[str, float]()
    assert fitted is not None
    for name in ("validation", "test"):
        seen = votes(net, getattr(split, name))
        found[name] = seen.routed(decide(fitted, seen.heads, seen.router).argmax(1))
        found[f"{name}.oracle"] = seen.routed(seen.task)
    capacity = net.capacity()
    return {
        "name": point.name,
        "least": point.least,
        **found,
        "share": capacity.arithmetic.share,
        "tasks": sum(capacity.arithmetic.tasks.values()) / capacity.arithmetic.plain,
        "neurons": [row.get(ROUTER, 0) for row in capacity.values()],
        "seconds": time.perf_counter() - start,
    }


def widest(net: EideticNetwork, share: float) -> int:
    """With how many neurons a layer a router may be, if the answer is to cost so much."""
    low, high = 1, min(net.program.groups.values())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _share(net, middle) <= share else (low, middle - 1)
    return low


def _share(net: EideticNetwork, width: int) -> float:
    tasks, program = net.tasks, with_taps(net.program)
    blocks = [net.learned.block(task.owner) for task in tasks]
    own = {**dict.fromkeys(program.groups, width), HEAD: sum(len(task.classes) for task in tasks)}
    widths = {**{block.owner: block.widths[block.owner] for block in blocks}, ROUTER: own}
    with torch.device("meta"):
        router = Block(program, ROUTER, tuple(block.owner for block in blocks), widths)
    return arithmetic(Learned(tasks, [*blocks, router]), net.program, net.inputs).share


def folder(problem: Problem, seed: int) -> str:
    """Where the default's network lies."""
    return str(CACHE / f"{problem.name}-answers-{seed}")


def of_plain(problem: Problem) -> nn.Module:
    """The plain network, untrained: what it costs does not depend on its weights."""
    head = nn.Linear(problem.hidden[-1], 2 * len(NAMES))
    return nn.Sequential(mlp(problem.pixels, problem.hidden), head).eval()


def time_of(problem: Problem, seed: int) -> float:
    """The whole served graph against the plain network in ONNX Runtime, one thread, in turns."""
    net = EideticNetwork.load(folder(problem, seed))
    plain = to_onnx(of_plain(problem), torch.zeros(3, problem.pixels), ["plain"])
    whole, alone = session(routed(net)), session(plain)
    x = rows(net, BATCH)
    asked = {**x, PINNED: np.full(BATCH, -1), THRESHOLD: np.zeros(BATCH, np.float32)}
    taken = times({"answer": lambda _: whole(asked), "plain": lambda _: alone(x)}, {}, ROUNDS)
    return ratio(taken, "answer", "plain")


def figures(
    results: Mapping[str, Sequence[dict[str, Any]]], chosen: Sequence[Problem]
) -> dict[str, list[float]]:
    """``answer.*``: a value for each seed, differences paired by seed; losses in percentage points."""
    found: dict[str, list[float]] = {}
    for problem in chosen:
        name, seeds = problem.name, results[problem.name]
        for point in points(problem):
            each = [next(p for p in seed["points"] if p["name"] == point.name) for seed in seeds]
            before = [next(p for p in seed["points"] if p["name"] == UNPRUNED) for seed in seeds]
            prefix = f"answer.{name}" if point.name == DEFAULT else f"answer.{name}.{point.name}"
            found[f"{prefix}.madds"] = [p["share"] for p in each]
            found[f"{prefix}.routed"] = [p["test"] for p in each]
            for part, key in (("test", "loss"), ("validation", "validation_loss")):
                found[f"{prefix}.{key}"] = [
                    100 * (b[part] - p[part]) for p, b in zip(each, before, strict=True)
                ]
        found[f"answer.{name}.time"] = [time_of(of(problem), seed["seed"]) for seed in seeds]
    return found
