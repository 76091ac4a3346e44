"""One seed of ``make bench-routing``: the tasks once, then every router on top of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.plain import mean_over_classes
from benchmarks.problems import NAMES, Part, Problem, Split
from benchmarks.train import TASKS
from eideticnet import EideticNetwork, FittedRouting, Journal, Pruning, Routing
from eideticnet.data.memory import choose_examples
from eideticnet.decision import Decision, RouterKind, decide
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.models import mlp
from eideticnet.route.calibration import calibrate, expected_calibration_error
from eideticnet.route.options import LEAST, PRUNED, Width

CACHE = Path("runs/bench-routing")
MOMENTS = 1024
REJECTED = 0.01
"""The share of validation inputs that may be answered "none of mine"."""


@dataclass(frozen=True)
class Fit:
    """A router, what it learns from ("all", "memory K", "none"), how its block is pruned, and how wide it
    starts."""

    router: RouterKind
    data: str
    pruning: Pruning | None = None
    width: Width = "trunk"

    @property
    def name(self) -> str:
        narrow = ", free" if self.width == "free" else ""
        pruned = "" if self.pruning is None else ", pruned"
        return f"{self.router}{narrow}{pruned}"

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return ("entropy",) if self.router == "none" else ("hard", "joint")


def fits(problem: Problem) -> list[Fit]:
    """The routers of the table. What experts train is what taps are: it comes next, from the journal."""
    few = f"memory {problem.memory}"
    from_memory = [Fit("taps", few, PRUNED), Fit("experts", few, PRUNED)] if problem.memory else []
    return [
        *(Fit("moments", "none"), Fit("none", "none")),
        *(Fit("taps", "all"), Fit("experts", "all"), Fit("taps", "all", width="free")),
        *(Fit("taps", "all", PRUNED), Fit("experts", "all", PRUNED), Fit("block", "all", PRUNED)),
        *from_memory,
    ]


UNKNOWN = [Fit("moments", "none"), Fit("none", "none"), Fit("taps", "all", PRUNED)]


@dataclass(frozen=True)
class Votes:
    """What heads and router say of one part of the data, and the truth."""

    heads: list[Tensor]
    router: Tensor | None
    task: Tensor
    label: Tensor

    def routed(self, task: Tensor) -> float:
        """Accuracy of task and label where ``task`` (N,) is chosen, mean over the ten classes."""
        labels = torch.stack([head.argmax(1) for head in self.heads], 1)
        right = (task == self.task) & (labels.gather(1, task[:, None]).squeeze(1) == self.label)
        return mean_over_classes(right, 2 * self.task + self.label)


@torch.no_grad()
def votes(net: EideticNetwork, part: Part) -> Votes:
    """All heads' and the router's logits on ``part``."""
    parts = [net.learned.votes(net.inputs.normalise(x)) for x in part.x.split(1000)]
    heads = [torch.cat(head) for head in zip(*(heads for heads, _ in parts), strict=True)]
    routers = [router for _, router in parts if router is not None]
    return Votes(heads, torch.cat(routers) if routers else None, part.y // 2, part.y % 2)


def rows(net: EideticNetwork, fit: Fit, split: Split, seconds: float) -> Iterator[dict[str, Any]]:
    """A row of the table for each decision, calibrated on the validation part."""
    validation, test = votes(net, split.validation), votes(net, split.test)
    for decision in fit.decisions:
        fitted = calibrated(fit, decision, validation)
        probs = decide(fitted, test.heads, test.router)
        chosen = decide(fitted, validation.heads, validation.router).argmax(1)
        raw = decide(FittedRouting(fit.router, decision), test.heads, test.router)
        yield {
            "router": fit.name,
            "decision": decision,
            "data": fit.data,
            "validation": validation.routed(chosen),
            "test": test.routed(probs.argmax(1)),
            "found": float((probs.argmax(1) == test.task).double().mean()),
            "ece": ece(probs, test.task),
            "ece_before": ece(raw, test.task),
            "false_rejections": float((probs.amax(1) < fitted.threshold).double().mean()),
            "temperature": fitted.temperature,
            "neurons": sum(row.get(ROUTER, 0) for row in net.capacity().values()),
            "multiply_adds": net.capacity().arithmetic.share,
            "seconds": seconds,
        }


def calibrated(fit: Fit, decision: Decision, on: Votes) -> FittedRouting:
    """The rule with temperatures and threshold for these votes."""
    bare = FittedRouting(fit.router, decision)
    return calibrate(bare, on.heads, on.router, on.task, on.label, REJECTED)


def ece(probs: Tensor, task: Tensor) -> float:
    """Expected calibration error of the decision's probability (N, T)."""
    return expected_calibration_error(probs.amax(1), probs.argmax(1) == task)


def fit_router(net: EideticNetwork, fit: Fit, problem: Problem, train: Part, validation: Part) -> float:
    """Fit one router on ``net``; from memory all tasks but the newest, whose data is at hand."""
    journal = Journal(CACHE / f"{problem.name}-{net.seed}.journal", interval=0.5)
    start, count = time.perf_counter(), len(net.tasks)
    loaders = {} if fit.data == "none" else train.tasks(problem.batch_size, count)
    tasks: Sequence[Task] = net.tasks
    if fit.data.startswith("memory"):
        kept = int(fit.data.split()[1])
        memory = {n: choose_examples(rows, kept, net.seed, n) for n, rows in net.rows(loaders).items()}
        tasks = [replace(t, memory=memory[t.name]) for t in tasks]
        loaders = {NAMES[count - 1]: loaders[NAMES[count - 1]]}
    blocks = [net.learned.block(t.owner) for t in tasks]
    net.learned = Learned(tasks, blocks, moments=net.learned.moments)
    decision: Decision = fit.decisions[0]
    pruning: Pruning | Literal["auto"] | None = "auto" if fit.pruning == PRUNED else fit.pruning
    routing = Routing(fit.router, decision, pruning, width=fit.width)
    held_out = validation.tasks(problem.batch_size, count)
    net.fit_router(loaders, routing=routing, validation=held_out, training=problem.training, journal=journal)
    return time.perf_counter() - start


def learn_tasks(problem: Problem, seed: int, split: Split) -> tuple[EideticNetwork, Learned]:
    """The network with five tasks, and what it had learned after four."""
    trunk = mlp(problem.pixels, problem.hidden)
    net = EideticNetwork(trunk, split.train.x[:2], inputs=problem.inputs, seed=seed)
    four = net.learned
    for i, (name, digits) in enumerate(zip(NAMES, TASKS, strict=True)):
        four = net.learned
        net.train_task(
            name,
            split.train.task(i, problem.batch_size),
            [str(d) for d in digits],
            pruning=problem.pruning,
            training=problem.training,
            moments=MOMENTS,
        )
    return net, four


def unknowns(net: EideticNetwork, problem: Problem, split: Split) -> Iterator[dict[str, Any]]:
    """With four tasks learned: which share of the fifth's inputs is answered "none of mine"."""
    first = TASKS[-1][0]
    train, validation, test = (
        Part(p.x[p.y < first], p.y[p.y < first]) for p in (split.train, split.validation, split.test)
    )
    fifth = Part(split.test.x[split.test.y >= first], split.test.y[split.test.y >= first])
    for fit in UNKNOWN:
        fit_router(net, fit, problem, train, validation)
        on, *parts = (votes(net, part) for part in (validation, test, fifth))
        for decision in fit.decisions:
            fitted = calibrated(fit, decision, on)
            probs = [decide(fitted, v.heads, v.router).amax(1) for v in parts]
            shares = [float((p < fitted.threshold).double().mean()) for p in probs]
            yield {
                "router": fit.name,
                "decision": decision,
                "false_rejections": shares[0],
                "rejected": shares[1],
            }


def run(problem: Problem, seed: int) -> dict[str, Any]:
    """All results of one seed, from the cache where the recipe is the same."""
    path = CACHE / f"{problem.name}-{seed}.json"
    recipe = f"{problem.recipe()} {fits(problem)} {UNKNOWN} {MOMENTS} {REJECTED} {LEAST}"
    if path.exists() and (cached := json.loads(path.read_text()))["recipe"] == recipe:
        return dict(cached)
    start, split = time.perf_counter(), problem.split(seed)
    net, four = learn_tasks(problem, seed, split)
    frozen = {name: net.task_logits(split.test.x, name) for name in NAMES}
    result: dict[str, Any] = {"recipe": recipe, "seed": seed, "task_seconds": time.perf_counter() - start}
    rival, seconds = plain.train(problem, seed, split)
    result["rows"] = []
    for fit in fits(problem):
        taken = fit_router(net, fit, problem, split.train, split.validation)
        result["rows"] += rows(net, fit, split, taken)
        if fit.router == "moments":
            moments = [votes(net, part).router for part in (split.validation, split.test)]
            assert moments[0] is not None
            assert moments[1] is not None
            result["plain"] = plain.accuracies(rival, problem, split, moments[0], moments[1])
    result["plain"]["seconds"] = seconds
    drift = [float((net.task_logits(split.test.x, name) - f).abs().max()) for name, f in frozen.items()]
    test = votes(net, split.test)
    result |= {"drift": max(drift), "oracle": test.routed(test.task), "neurons": net.capacity()}
    net.learned = four
    result["unknown"] = list(unknowns(net, problem, split))
    result["seconds"] = time.perf_counter() - start
    CACHE.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    path.with_suffix(".journal").unlink(missing_ok=True)
    return result
