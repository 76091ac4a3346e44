"""``make bench-scale``: how the cost of an answer grows with the number of tasks, in ONNX Runtime.

Blocks of random weights: an MLP of 784 inputs and two layers with 16 neurons a task in each (``uneven``: 4
to 28), or a ResNet-18 on 3x32x32 in equal tasks; ``wide``: the networks of ``make bench-export``.
``mlp.tT.bB``: the paged graph of T tasks against the dense one of the same numbers, at batch B; ``.madds``
the ratio of their multiply-adds; ``.nested`` and ``.nested.madds`` the same of the nested graph; one thread.
``mlp.grown.tT``: T tasks in pages that were laid for 100; ``.idle``: share of the pages' slots that nobody
has. ``export.``: seconds of the paged export against those of the plain trunk's with one head. ``step.``: an
epoch of the last of T tasks, all others frozen, against the plain trunk's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import onnx
import torch
from rich.progress import track
from torch import nn

from benchmarks.graphs import (
    CLASSES,
    cut_tasks,
    dense_body,
    in_pages,
    multiply_adds,
    nested_body,
    one_output,
    paged_body,
    ratio,
    rows,
    times,
)
from benchmarks.report import PLOTS, publish
from benchmarks.steps import by_tasks
from eideticnet import EideticNetwork
from eideticnet.export.graph.session import session
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.models import convnet, mlp, resnet18
from eideticnet.program import HEAD

mpl.use("agg")
from matplotlib import pyplot as plt

TASKS = (5, 20, 50, 100)
NEURONS, UNEVEN = 16, (4, 28)
BATCHES = (1, 32)
COUNTS = (1, 2, 3, 4, 5, 6, 8)
ROUNDS = 41
EXPORTS = 3


@dataclass(frozen=True)
class Network:
    """A trunk for inputs of ``shape``, cut into tasks with these ``shares`` of its neurons."""

    name: str
    trunk: nn.Module
    shape: tuple[int, ...]
    shares: Sequence[float]
    rounds: int = ROUNDS
    batches: Sequence[int] = BATCHES
    planned: int = 0
    """Tasks for which pages are laid: as many as there are, unless given."""

    def made(self) -> EideticNetwork:
        """The network, with blocks of random weights."""
        net = cut_tasks(self.trunk, self.shape, self.shares)
        net.planned_tasks = self.planned or len(self.shares)
        return net


def networks() -> Iterator[Network]:
    """All that are measured."""
    for tasks in TASKS:
        yield Network(f"mlp.t{tasks}", mlp(784, (NEURONS * tasks,) * 2), (784,), [1 / tasks] * tasks)
    most = TASKS[-1]
    for tasks in TASKS[:-1]:
        trunk = mlp(784, (NEURONS * most,) * 2)
        yield Network(f"mlp.grown.t{tasks}", trunk, (784,), [1 / most] * tasks, planned=most)
    widths = random.Random(0).choices(range(UNEVEN[0], UNEVEN[1] + 1), k=50)
    shares = [width / sum(widths) for width in widths]
    yield Network("uneven.t50", mlp(784, (sum(widths),) * 2), (784,), shares)
    yield Network("resnet18.t15", resnet18(), (3, 32, 32), [1 / 15] * 15, ROUNDS // 5)
    yield Network("mlp.wide", mlp(784, (2000, 2000)), (784,), [1 / 10] * 10, batches=(1, 8, 32))
    wide = convnet(3, (160,) * 4, pool_every=9)
    yield Network("conv.wide", wide, (3, 32, 32), [1 / 5] * 5, ROUNDS // 5, batches=(8,))


def plain(network: Network) -> onnx.ModelProto:
    """The trunk's graph with one head for the classes of all tasks."""
    x = torch.zeros(3, *network.shape)
    head = nn.Linear(network.trunk(x).shape[1], CLASSES * len(network.shares))
    return to_onnx(nn.Sequential(network.trunk, head).eval(), x, ["plain"])


def measured(network: Network) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of one network, and their spread."""
    name, net = network.name, network.made()
    exports: dict[str, Callable[[], onnx.ModelProto]] = {
        "plain": lambda: plain(network),
        "dense": lambda: dense_body(net),
        "paged": lambda: paged_body(net),
        "nested": lambda: nested_body(net),
    }
    graphs, seconds = dict[str, onnx.ModelProto](), dict[str, list[float]]()
    for layout in (*exports, *("plain", "paged") * (EXPORTS - 1)):
        start = time.perf_counter()
        graphs[layout] = exports[layout]()
        seconds.setdefault(layout, []).append(time.perf_counter() - start)
    del graphs["plain"]
    graphs = {layout: one_output(graph) for layout, graph in graphs.items()}
    spent = {layout: multiply_adds(graph) for layout, graph in graphs.items()}
    figures = {
        f"export.{name}": ratio(seconds, "paged", "plain"),
        f"{name}.pages": float(len(net.pages())),
        f"{name}.idle": idle(net),
    }
    details: dict[str, Any] = {f"export.{name}": seconds}
    runs = {layout: session(graph) for layout, graph in graphs.items()}
    for batch in network.batches:
        taken = times(runs, rows(net, batch), network.rounds)
        for layout, suffix in (("paged", ""), ("nested", ".nested")):
            key = f"{name}.b{batch}{suffix}"
            figures |= {key: ratio(taken, layout, "dense"), f"{key}.madds": spent[layout] / spent["dense"]}
            details[key] = spread([a / b for a, b in zip(taken[layout], taken["dense"], strict=True)])
    return figures, {**details, f"{name}.nodes": {k: len(graph.graph.node) for k, graph in graphs.items()}}


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """How far the rounds' ratios lie apart."""
    return dict(zip(("p10", "p50", "p90"), np.percentile(ratios, (10, 50, 90)), strict=True))


def idle(net: EideticNetwork) -> float:
    """Share of the pages' slots that nobody has."""
    slots = sum(count for page in net.pages() for group, count in page.slots.items() if group != HEAD)
    return 1 - sum(sum(net.learned.block(task.owner).own.values()) for task in net.learned.tasks) / slots


def by_pages(network: Network) -> dict[str, dict[str, float]]:
    """Time against one page of everyone, by the number of pages and by batch: what OPERATION rests on."""
    net = network.made()
    runs = {str(count): session(one_output(paged_body(net, in_pages(net, count)))) for count in COUNTS}
    found: dict[str, dict[str, float]] = {count: {} for count in runs}
    for batch in BATCHES:
        taken = times(runs, rows(net, batch), network.rounds)
        for count in runs:
            found[count][f"b{batch}"] = ratio(taken, count, "1")
    return found


def draw(figures: dict[str, float], tasks: Sequence[int]) -> None:
    """Write ``docs/images/scale.svg``: time of an answer against the number of tasks."""
    figure, axes = plt.subplots(1, len(BATCHES), figsize=(11, 4), sharey=True)
    for axis, batch in zip(axes, BATCHES, strict=True):
        for layout, suffix in (("nested", ".nested"), ("paged", "")):
            keys = [f"mlp.t{count}.b{batch}{suffix}" for count in tasks]
            (line,) = axis.plot(tasks, [figures[key] for key in keys], "o-", label=layout)
            least = [figures[f"{key}.madds"] for key in keys]
            axis.plot(tasks, least, ":", color=line.get_color(), label=f"{layout}, multiply-adds")
        axis.axhline(1.0, color="gray", lw=1, label="dense")
        axis.set_xlabel(f"tasks of {NEURONS} neurons a layer")
        axis.set_title(f"batch {batch}")
    axes[0].set_ylabel("time, multiples of the dense graph's")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(PLOTS / "scale.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Publish all figures, and draw how they grow."""
    torch.set_num_threads(1)
    figures, details = dict[str, float](), dict[str, Any]()
    for network in track(list(networks()), "networks"):
        found, more = measured(network)
        figures |= found
        details |= more
        if network.batches == BATCHES:
            details[f"{network.name}.by_pages"] = by_pages(network)
    for name, ratios in by_tasks().items():
        details[f"step.{name}"] = spread(ratios)
        figures[f"step.{name}"] = details[f"step.{name}"]["p50"]
    draw(figures, TASKS)
    publish("scale", figures, details)


if __name__ == "__main__":
    main()
