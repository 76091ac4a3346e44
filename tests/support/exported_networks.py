"""Networks on every trunk there is, trained as little as a graph needs, and their bundles.

Kinds are ``zoo/NAME``, ``ready/NAME`` (eideticnet.models) and ``foreign/NAME`` (Hugging Face).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from eidetic_runtime.device import Settings
from eidetic_runtime.graph import Graph as HandlerGraph
from eideticnet import EideticNetwork, Routing, batches, models
from eideticnet.data.rows import Loader
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.graph.session import Run, session
from tests.support import ready_trunks
from tests.support.layer_zoo import ZOO
from tests.support.small_networks import LIGHT, QUICK, names

BRIEF = replace(QUICK, max_epochs=1)
COARSE = replace(LIGHT, step=0.8)
READY = [*ready_trunks.SMALL, "resnet50"]
FOREIGN = ["resnet", "mobilenet", "vit"]


def graph_of(folder: Path, bundle: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The whole graph of a bundle as the handler runs it, whatever is pinned."""
    return partial(HandlerGraph(folder, bundle, Settings(device="cpu")), whole=True)


def made(kind: str) -> tuple[Callable[[], nn.Module], Callable[[int], Tensor]]:
    """A trunk's maker, and random inputs for it by the number of rows."""
    family, name = kind.split("/")
    if family == "zoo":
        return ZOO[name]
    if family == "foreign":
        from tests.support.hugging_face import FOREIGN, pixels  # late: transformers takes seconds to import

        make, size = FOREIGN[name]
        return make, lambda rows: pixels(rows, size)
    if name == "resnet50":
        return lambda: models.resnet50(width=4, low_resolution=True), lambda rows: torch.randn(rows, 3, 8, 8)
    return ready_trunks.SMALL[name], lambda rows: ready_trunks.inputs(name, rows)


def held_out(kind: str, rows: int, seed: int = 99) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return made(kind)[1](rows)


def loader(kind: str, number: int) -> Loader:
    """Data of one task: random inputs, labelled by the first number of each."""
    x = held_out(kind, 16, number)
    return batches(x, x.flatten(1)[:, 0].argsort().argsort() // 8, 8)


def network(kind: str, tasks: int = 2) -> EideticNetwork:
    """A network of ``tasks`` tasks, without a router."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = EideticNetwork(made(kind)[0](), held_out(kind, 2), seed=1)
    for _ in range(tasks):
        learn(net, kind)
    return net


def learn(net: EideticNetwork, kind: str, **options: Any) -> None:
    """One more task."""
    number = len(net.tasks)
    options = {"training": BRIEF, "pruning": COARSE, "when_full": "reuse", **options}
    net.train_task(f"task {number}", loader(kind, number), names(2), **options)


def route(net: EideticNetwork, kind: str, router: str = "block") -> None:
    """Fit a router to the tasks there are."""
    loaders = {t.name: loader(kind, i) for i, t in enumerate(net.tasks)}
    routing = Routing(router, "joint", COARSE)  # type: ignore[arg-type]
    net.fit_router(loaders, training=BRIEF, routing=routing, when_full="reuse")


@dataclass(frozen=True)
class Graph:
    """A network's ONNX bundle in ``folder``, with a prefix for every number of tasks."""

    net: EideticNetwork
    folder: Path
    bundle: dict[str, Any]
    model: onnx.ModelProto
    run: Run

    @property
    def owners(self) -> list[str]:
        return [task["owner"] for task in self.bundle["tasks"]]

    def prefix(self, tasks: int) -> onnx.ModelProto:
        return onnx.load(self.folder / f"prefix/{tasks}.onnx")


def graph(net: EideticNetwork, folder: Path) -> Graph:
    """The network exported to the new folder ``folder``."""
    folder.mkdir(parents=True)
    prefixes = range(1, len(net.tasks) + 1)
    write_bundle(net, folder, name="net", model_version="1.0", prefixes=list(prefixes))
    bundle = json.loads((folder / "bundle.json").read_text())
    model = onnx.load(folder / "model.onnx")
    return Graph(net, folder, bundle, model, session(model))


def pinned(run: Run, x: Tensor, task: int, **others: Any) -> bytes:
    """The logits of rows that are all pinned to one task, as they lie in memory."""
    feeds = {"x": x.numpy(), "pinned_task": torch.full((len(x),), task).numpy(), **others}
    return run(feeds)["logits"].tobytes()
