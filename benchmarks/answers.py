"""What a routed answer costs and what it is worth: multiply-adds, time and accuracy, tasks, router and heads
together, against the plain network of the trunk. Part of ``make bench-routing``.

Digits are the network of ``make serve``, everything by default and no validation data. MNIST-5 has some, and
several points: how many neurons its tasks keep at least, how far its router is pruned, and whether the
learning rate of the router falls. **The rule for the answer that is published**: of the points that take
neither more multiply-adds nor more time than the plain network, the one that is most accurate on validation
data; all three are means over the seeds. Points of the curve are routers that are pruned until the whole
answer has that share of the plain network's multiply-adds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR

from benchmarks.graphs import ratio, routed, rows, times
from benchmarks.problems import NAMES, Problem, Split, served
from benchmarks.routers import CACHE, learn_tasks, votes
from eideticnet import EideticNetwork, Routing, Training
from eideticnet.arithmetic import arithmetic
from eideticnet.block import Block
from eideticnet.decision import decide
from eideticnet.export.graph.session import session
from eideticnet.export.graph.tail import PINNED, THRESHOLD
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.learn.training import adam
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
EPOCHS = 8
"""How long the rate of an annealed router falls: tried on held-out training images of other seeds."""
HALF = Routing(pruning=replace(PRUNED, min_width=200))


@dataclass(frozen=True)
class Point:
    """A router on tasks that keep ``least`` neurons a layer; ``share``: of the plain network's
    multiply-adds that the whole answer may take, None for what ``routing`` gives. ``judged``: it is pruned
    by its accuracy on validation data, where there is some, else by what it learned from; then that data is
    there for choosing alone."""

    name: str
    least: int
    routing: Routing
    share: float | None = None
    judged: bool = True

    def training(self, problem: Problem, rows: int) -> Training:
        """How its router is trained, which learns from ``rows``."""
        return problem.training


@dataclass(frozen=True)
class Annealed(Point):
    """A point whose router learns at a falling rate; a phase takes ``epochs`` at most."""

    epochs: int = EPOCHS

    def training(self, problem: Problem, rows: int) -> Training:
        """The problem's, with that rate."""
        steps = self.epochs * rows // problem.batch_size
        return replace(
            problem.training,
            optimizer=partial(annealed, steps=steps),
            max_epochs=self.epochs,
            settle_patience=self.epochs,
        )


def annealed(parameters: Iterable[nn.Parameter], steps: int) -> Optimizer:
    """Adam; its rate falls linearly, within ``steps``, to a hundredth of what it starts with."""
    optimizer = adam(parameters)
    schedule = LinearLR(optimizer, 1.0, 0.01, steps)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def points(problem: Problem) -> list[Point]:
    """All points of a problem."""
    if problem.name == "digits5":
        curve = [Point(f"{level:g}", 1, Routing(), level) for level in LEVELS]
        return [Point(UNPRUNED, 1, Routing("taps", pruning=None)), Point(DEFAULT, 1, Routing()), *curve]
    kept = zip(LEVELS, (64, 32, 16), strict=True)
    return [
        Point(UNPRUNED, 64, Routing("experts", pruning=None)),
        Point(DEFAULT, 64, Routing()),
        *(Point(f"{level:g}", least, Routing(), level) for level, least in kept),
        Point("half", 16, HALF, judged=False),
        Annealed("annealed", 16, HALF, judged=False),
        Annealed("unpruned_annealed", 64, Routing("experts", pruning=None)),
    ]


def of(problem: Problem) -> Problem:
    """The network whose answers are measured."""
    return served() if problem.name == "digits5" else problem


def run(problem: Problem, seed: int) -> dict[str, Any]:
    """All points of one seed, each from the cache where its recipe is the same; their networks are kept."""
    found, split = list[dict[str, Any]](), cache(lambda: of(problem).split(seed))
    for point in points(problem):
        path = Path(f"{folder(problem, seed, point.name)}.json")
        if (result := cached(problem, seed, point)) is None:
            net = with_tasks(problem, seed, point, split())
            result = {"recipe": recipe(problem, point), **measured(net, point, of(problem), split())}
            net.save(folder(problem, seed, point.name))
            path.write_text(json.dumps(result))
        found.append(result)
    return {"seed": seed, "points": found}


def recipe(problem: Problem, point: Point) -> str:
    """What the results of a point depend on, as text."""
    return f"{of(problem).recipe()} {point} {PRUNED} {LEAST}"


def cached(problem: Problem, seed: int, point: Point) -> dict[str, Any] | None:
    """The results of a point, if they are known."""
    path = Path(f"{folder(problem, seed, point.name)}.json")
    known = dict(json.loads(path.read_text())) if path.exists() else {}
    return known if known.get("recipe") == recipe(problem, point) else None


def with_tasks(problem: Problem, seed: int, point: Point, split: Split) -> EideticNetwork:
    """The tasks that the point's router is on, from a point that has the same."""
    for other in points(problem):
        kept = folder(problem, seed, other.name)
        if other.least == point.least and cached(problem, seed, other) and Path(kept).exists():
            return EideticNetwork.load(kept)
    network = of(problem)
    pruned = replace(network, pruning=replace(network.pruning, min_width=point.least))
    return learn_tasks(pruned, seed, split)[0]


def measured(net: EideticNetwork, point: Point, problem: Problem, split: Split) -> dict[str, Any]:
    """Fit one router; its accuracies on both parts and what its answers cost."""
    start, pruning = time.perf_counter(), point.routing.pruning
    validates = point.judged and problem.name == "mnist5"
    if point.share is not None:
        pruning = replace(PRUNED, threshold=CURVE, min_width=widest(net, point.share))
    net.fit_router(
        split.train.tasks(problem.batch_size),
        routing=replace(point.routing, pruning=pruning),
        validation=split.validation.tasks(problem.batch_size) if validates else {},
        training=point.training(problem, len(split.train.x)),
    )
    fitted, accuracies = net.learned.routing, dict[str, float]()
    assert fitted is not None
    for name in ("validation", "test"):
        seen = votes(net, getattr(split, name))
        accuracies[name] = seen.routed(decide(fitted, seen.heads, seen.router).argmax(1))
        accuracies[f"{name}.oracle"] = seen.routed(seen.task)
    capacity = net.capacity()
    return {
        "name": point.name,
        "least": point.least,
        **accuracies,
        "share": capacity.arithmetic.share,
        "tasks": sum(capacity.arithmetic.tasks.values()) / capacity.arithmetic.plain,
        "neurons": [row.get(ROUTER, 0) for row in capacity.values()],
        "seconds": time.perf_counter() - start,
    }


def widest(net: EideticNetwork, share: float) -> int:
    """The widest router, in neurons a layer, whose answer still costs no more than this."""
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


def folder(problem: Problem, seed: int, point: str = DEFAULT) -> str:
    """Where the network of a point lies."""
    return str(CACHE / "answers" / f"{problem.name}-{seed}" / point)


def of_plain(problem: Problem) -> nn.Module:
    """The plain network, untrained: what it costs does not depend on its weights."""
    head = nn.Linear(problem.hidden[-1], 2 * len(NAMES))
    return nn.Sequential(mlp(problem.pixels, problem.hidden), head).eval()


def times_of(problem: Problem, seed: int, point: str) -> tuple[float, float]:
    """The whole served graph against the plain network in ONNX Runtime, one thread, in turns: the ratio of
    their quickest turns, which other programs disturbed least (they slow a graph of many small operations
    more), and the median of all turns' ratios."""
    net = EideticNetwork.load(folder(problem, seed, point))
    plain = to_onnx(of_plain(problem), torch.zeros(3, problem.pixels), ["plain"])
    whole, alone = session(routed(net)), session(plain)
    x = rows(net, BATCH)
    asked = {**x, PINNED: np.full(BATCH, -1), THRESHOLD: np.zeros(BATCH, np.float32)}
    taken = times({"answer": lambda _: whole(asked), "plain": lambda _: alone(x)}, {}, ROUNDS)
    return min(taken["answer"]) / min(taken["plain"]), ratio(taken, "answer", "plain")


Columns = dict[str, list[float]]
"""Of each figure a value for each seed."""


def columns(seeds: Sequence[dict[str, Any]]) -> dict[str, Columns]:
    """Of each point: accuracy, multiply-adds, and what it loses, paired by seed and in percentage points."""
    by_name = [{p["name"]: p for p in seed["points"]} for seed in seeds]
    spent = dict[str, Columns]()
    for name in by_name[0]:
        pairs = [(seed[name], seed[UNPRUNED]) for seed in by_name]
        spent[name] = {
            "madds": [p["share"] for p, _ in pairs],
            "routed": [p["test"] for p, _ in pairs],
            "validation": [p["validation"] for p, _ in pairs],
            "loss": [100 * (before["test"] - p["test"]) for p, before in pairs],
            "validation_loss": [100 * (before["validation"] - p["validation"]) for p, before in pairs],
        }
    return spent


def timed(problem: Problem, seeds: Sequence[dict[str, Any]], point: str) -> Columns:
    """How long a point's answers take."""
    quickest, median = zip(*(times_of(of(problem), seed["seed"], point) for seed in seeds), strict=True)
    return {"time": list(quickest), "time.median": list(median)}


def publishable(spent: Mapping[str, Columns]) -> list[str]:
    """The points that multiply no more than the plain network, the most accurate on validation data first."""
    cheap = [name for name, column in spent.items() if fmean(column["madds"]) <= 1]
    return sorted(cheap, key=lambda name: -fmean(spent[name]["validation"]))


def published(spent: dict[str, Columns], time: Callable[[str], Columns]) -> str:
    """What the rule takes: of the ``publishable`` points the first that is no slower than the plain network,
    or the very first. ``time`` measures one of them, which is noted in ``spent``."""
    names = publishable(spent)
    for name in names:
        spent[name] |= time(name)
        if fmean(spent[name]["time"]) <= 1:
            return name
    return names[0]


def answer(problem: Problem, seeds: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Columns]]:
    """The point whose answer is published, and the columns of all."""
    spent = columns(seeds)
    if problem.name != "digits5":
        return published(spent, partial(timed, problem, seeds)), spent
    spent[DEFAULT] |= timed(problem, seeds, DEFAULT)
    return DEFAULT, spent


def figures(problem: Problem, chosen: str, spent: Mapping[str, Columns]) -> Columns:
    """``answer.*``: the published point's under the problem's own name."""
    mine = f"answer.{problem.name}"
    prefixes = {name: mine if name == chosen else f"{mine}.{name}" for name in spent}
    return {f"{prefixes[p]}.{key}": values for p, column in spent.items() for key, values in column.items()}
