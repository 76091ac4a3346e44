"""What is told of one run: accuracies, what was forgotten, what it keeps and what an answer costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from eideticnet.data.rows import Loader
from eideticnet.errors import DamagedError
from eideticnet.experiments.settings import clock_of
from eideticnet.learned import Task
from eideticnet.network import EideticNetwork
from eideticnet.runs import history
from eideticnet.runs.config import Config
from eideticnet.runs.evaluation import answers


class Table(BaseModel):
    """A part of a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Accuracy(Table):
    """Shares that are right: of each class of each task, means over a task's classes, and their mean; a task
    that was pretrained elsewhere has no part in that, but is one of those among which one is found."""

    mean: float
    tasks: dict[str, float]
    classes: dict[str, dict[str, float]]


class Forgetting(Table):
    """``lines``: of each task, its accuracy with the task given after each of ``learned``, None before its
    own. ``compared``: how often the logits of an earlier task on its held-out data were compared, as
    integers, with those of the day that it was learned; ``changed``: the tasks for which they differed."""

    learned: list[str]
    lines: dict[str, list[float | None]]
    compared: int
    changed: list[str]


class Bytes(Table):
    """Of the checkpoint's files; of all parameters and buffers; of examples that are kept; of moments."""

    checkpoint: int
    network: int
    memory: int
    moments: int


class MultiplyAdds(Table):
    """Of one answer, of the router's part, and of the plain network: the trunk with one head."""

    answer: int
    router: int
    plain: int
    share: float


class Measured(Table):
    """One run. ``oracle``: the task is given. ``task``: it is found. ``routed``: task and class are, and
    ``among`` where the answer is none of a pretrained task's, if there is one; ``named``: the class is right
    by its name, whichever task says it, if tasks have classes of one name.
    ``saw``: which data of earlier tasks the router learned from, ``all``, ``memory K`` or ``none``.
    ``seconds`` are those of a ``clock``, the processor's on a CPU, else the wall's; ``frozen`` and
    ``neurons`` are shares of all neurons; ``within_budget``: of tasks that had more than a plan's share,
    training accuracy before and after they were pruned to that."""

    oracle: Accuracy
    task: Accuracy
    routed: Accuracy
    among: Accuracy | None = None
    named: Accuracy | None = None
    forgetting: Forgetting
    router: str
    saw: str
    bytes: Bytes
    multiply_adds: MultiplyAdds
    seconds: dict[str, float]
    frozen: float
    neurons: dict[str, float]
    doubts: dict[str, str]
    within_budget: dict[str, tuple[float, float]] = {}
    clock: str = "processor"
    device: str
    threads: int


def measure(
    net: EideticNetwork,
    tests: Mapping[str, Loader],
    config: Config,
    folder: Path,
    seconds: Mapping[str, float],
    device: str,
) -> Measured:
    """Of a run that is complete. ``DamagedError`` if a task's logits are not what they were."""
    forgetting = forgotten(net)
    if changed := sorted({*forgetting.changed, *history.Recorder(net, tests).changed}):
        raise DamagedError(
            f"{folder}: the logits of {', '.join(map(repr, changed))} are not what they were when they were "
            "learned; nothing is published of this run"
        )
    assert net.learned.routing is not None, "the run is complete"
    begun = [task.name for task in config.tasks if task.pretrained]
    oracle, routed, task = _accuracies(net, answers(net, tests), begun)
    layers, owners = net.capacity(), [t.name for t in net.tasks]
    cost = layers.arithmetic
    neurons = sum(row["total"] for row in layers.values())
    mine = {name: sum(row.get(name, 0) for row in layers.values()) / max(neurons, 1) for name in owners}
    past = history.read(net)
    kept = [t.memory for t in net.tasks if t.memory is not None]
    sums = net.learned.moments
    return Measured(
        oracle=oracle,
        task=task,
        routed=routed,
        among=_mean_of(_among(net, tests, begun), ()) if begun else None,
        named=_mean_of(_named(net, tests), begun) if _overlap(net) else None,
        forgetting=forgetting,
        router=net.learned.routing.router,
        saw=saw(config, net.learned.routing.router),
        bytes=Bytes(
            checkpoint=sum(f.stat().st_size for f in folder.glob("*-*.safetensors")),
            network=_size(net.learned.blocks),
            memory=sum(e.x.nbytes + e.y.nbytes for e in kept),
            moments=0 if sums is None else sums.products.nbytes + sum(s.nbytes for s in sums.sums.values()),
        ),
        multiply_adds=MultiplyAdds(
            answer=cost.total, router=cost.router, plain=cost.plain, share=round(cost.share, 6)
        ),
        seconds={name: round(value, 1) for name, value in seconds.items()},
        frozen=sum(mine.values()),
        neurons=mine,
        doubts=past.doubts,
        within_budget={
            name: (curve.steps[0].accuracy, curve.after)
            for name, curve in past.pruning.items()
            if curve.after is not None
        },
        clock=clock_of(net.device.type)[0],
        device=device,
        threads=torch.get_num_threads(),
    )


def forgotten(net: EideticNetwork) -> Forgetting:
    """What a run's history says of earlier tasks."""
    moments = history.read(net).moments
    names = [task.name for task in net.tasks]
    return Forgetting(
        learned=[moment.learned for moment in moments],
        lines={name: [moment.oracle.get(name) for moment in moments] for name in names},
        compared=sum(len(moment.drift) for moment in moments),
        changed=sorted({name for moment in moments for name, drift in moment.drift.items() if drift != 0}),
    )


def saw(config: Config, router: str) -> str:
    """Which data of the tasks before the last one the router learned from."""
    if config.router_data == "kept":
        return f"memory {config.memory}" if config.memory and router not in ("moments", "none") else "none"
    sums_alone = router in ("moments", "none") and not config.validation
    return "none" if sums_alone else "all"


def _accuracies(
    net: EideticNetwork, found: Mapping[str, tuple[Tensor, Tensor]], apart: Sequence[str] = ()
) -> list[Accuracy]:
    """Task given, task and class found, task found; means without the tasks ``apart``."""
    shares: list[dict[str, dict[str, float]]] = [{}, {}, {}]
    for task in net.tasks:
        right, y = found[task.name]
        for kind, each in zip(shares, right.unbind(1), strict=True):
            kind[task.name] = _by_class(task, each, y)
    return [_mean_of(kind, apart) for kind in shares]


def _by_class(task: Task, right: Tensor, y: Tensor) -> dict[str, float]:
    """The share of ``right`` (N,) in each of the task's classes that ``y`` (N,) holds."""
    mine = ((name, right[y == c]) for c, name in enumerate(task.classes))
    return {name: float(each.double().mean()) for name, each in mine if len(each)}


@torch.no_grad()
def _among(
    net: EideticNetwork, tests: Mapping[str, Loader], apart: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Shares of each class where task and class are found among the tasks that are not ``apart``; where tasks
    share their labels the class, whichever of them says it."""
    found, rows, names = dict[str, dict[str, float]](), net.rows(tests), [t.name for t in net.tasks]
    labels = net.learned.labels
    out_of = torch.tensor([name in apart for name in names], device=net.device)
    for index, task in enumerate(net.tasks):
        if task.name not in apart:
            numbers = torch.tensor(labels.places[index] if labels else range(len(task.classes)))
            rights, given = [], []
            for x, y in rows[task.name].batches(task.name):
                x = x.to(net.device)
                chosen = net(x).task_probs.masked_fill(out_of, -1.0).argmax(1)
                right = net(x, chosen).label.cpu() == numbers[y]
                rights.append(right if labels else right & (chosen == index).cpu())
                given.append(y)
            found[task.name] = _by_class(task, torch.cat(rights), torch.cat(given))
    return found


def _overlap(net: EideticNetwork) -> bool:
    """Whether tasks have classes of one name."""
    names = [name for task in net.tasks for name in task.classes]
    return len(set(names)) < len(names)


@torch.no_grad()
def _named(net: EideticNetwork, tests: Mapping[str, Loader]) -> dict[str, dict[str, float]]:
    """Shares of each class whose name is answered, by whichever task."""
    found, rows = dict[str, dict[str, float]](), net.rows(tests)
    for task in net.tasks:
        rights, labels = list[bool](), list[int]()
        for x, y in rows[task.name].batches(task.name):
            names = net.names(net(x.to(net.device)))
            rights += [said.label == task.classes[c] for said, c in zip(names, y.tolist(), strict=True)]
            labels += y.tolist()
        found[task.name] = _by_class(task, torch.tensor(rights), torch.tensor(labels))
    return found


def _mean_of(classes: dict[str, dict[str, float]], apart: Sequence[str]) -> Accuracy:
    tasks = {name: sum(of.values()) / len(of) for name, of in classes.items()}
    counted = [share for name, share in tasks.items() if name not in apart] or list(tasks.values())
    return Accuracy(mean=sum(counted) / len(counted), tasks=tasks, classes=classes)


def _size(module: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def remains(net: EideticNetwork) -> None:
    """``DamagedError`` if what was learned last changed the logits of an earlier task."""
    if changed := forgotten(net).changed:
        raise DamagedError(
            f"after {net.metadata['history']['moments'][-1]['learned']!r} was learned, the logits of "
            f"{', '.join(map(repr, changed))} are not what they were: this is a bug, or a damaged machine"
        )
