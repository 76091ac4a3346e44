"""Networks with a past, and the archives of it: for tests of what one version promises to the next."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx
import torch
from torch import nn

from eideticnet import EideticNetwork, Inputs
from eideticnet.export.archive.contents import MANIFEST, manifest
from eideticnet.export.archive.members import write_members
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle import graph_file
from eideticnet.export.bundle.graph_file import onnx_body
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.graph.digest import digests
from eideticnet.export.graph.lanes import lane_digests
from eideticnet.export.graph.tail import detach, logits_name
from eideticnet.export.graph.values import Values
from eideticnet.learn.reading import Reads
from eideticnet.program import HEAD
from tests.support.small_networks import LIGHT, QUICK, fit, names, task_loader
from tests.support.small_trunks import FEATURES, Mlp

HANDLERS = Path(__file__).parents[2] / "handlers"
INPUTS = Inputs((FEATURES,), mean=(0.1,), std=(1.5,), low=-50, high=50)
"""Within these bounds nothing overflows, so tasks share pages."""
PROVABLE = "nested", "paged"
"""The layouts that promise bits."""


def add_task(net: EideticNetwork, **options: Any) -> None:
    """One more random task; tasks have 2, 3, 2, 3, ... classes."""
    i = len(net.tasks)
    options = {"training": QUICK, "pruning": LIGHT, "when_full": "widen", **options}
    net.train_task(f"task {i}", task_loader(i, 2 + i % 2), names(2 + i % 2), **options)


LATER = ("task", "revise", "widen", "disjoint", "some", "narrow")
"""What may happen to a network with a past: see ``with_past``."""


def with_past(trunk: Callable[[Sequence[int]], nn.Module], later: Iterable[str]) -> EideticNetwork:
    """A network without a router that learned a task, and then what ``later`` says: another one, which may
    read nobody (disjoint), the last task alone (some), or the first one alone in one layer (narrow), also on
    wider layers; or the first one again."""
    net = EideticNetwork(trunk((14, 12)), torch.zeros(2, FEATURES))
    for step in ["task", *later]:
        learned = [t.name for t in net.tasks]
        if step == "revise":
            net.revise_task(learned[0], task_loader(0), when_full="widen", training=QUICK, pruning=LIGHT)
            continue
        if step == "widen":
            net.widen(dict.fromkeys(net.program.groups, 3))
        add_task(net, reads=reads_of(net, step), moments=16)
    return net


def reads_of(net: EideticNetwork, step: str) -> Reads:
    """Whom a task reads that is learned by this ``step``."""
    learned, layers = [t.name for t in net.tasks], [p for p in net.program.layers if p != HEAD]
    reads: dict[str, Reads] = {"disjoint": [], "some": learned[-1:], "narrow": {layers[-1]: learned[:1]}}
    return reads.get(step)


@cache
def _normalised(tasks: int) -> EideticNetwork:
    net = EideticNetwork(Mlp((24, 20)), torch.zeros(2, FEATURES), inputs=INPUTS)
    for _ in range(tasks):
        add_task(net)
    fit(net)
    return net


def normalised(tasks: int) -> EideticNetwork:
    """A network whose inputs are normalised, with ``tasks`` tasks and a router."""
    return copy.deepcopy(_normalised(tasks))


@cache
def grown() -> tuple[EideticNetwork, EideticNetwork, EideticNetwork]:
    """Two tasks; a third one added; the first one revised. Not to be changed."""
    net, kept = normalised(2), [normalised(2)]
    add_task(net)
    fit(net)
    kept.append(copy.deepcopy(net))
    net.revise_task("task 0", task_loader(0), training=QUICK, pruning=LIGHT, when_full="widen")
    fit(net)
    return kept[0], kept[1], net


def archived(net: EideticNetwork, folder: Path, version: str = "1.0", **options: Any) -> Path:
    """The network's archive in the new folder ``folder``."""
    bundle = folder / "bundle"
    bundle.mkdir(parents=True)
    bundled(net, bundle, name="net", model_version=version, **options)
    write_archive(bundle, HANDLERS, folder / f"net-{version}.mar")
    return folder / f"net-{version}.mar"


def bundled(net: EideticNetwork, folder: Path, **options: Any) -> None:
    """``write_bundle``; bundles of the same network share what torch exported for the first one."""
    with patch.object(graph_file, "onnx_body", _exported_once):
        write_bundle(net, folder, **options)


_BODIES = dict[object, bytes]()


def _exported_once(net: EideticNetwork, form: graph_file.Form) -> onnx.ModelProto:
    pages = repr(net.pages()) if form.layout == "paged" else ""
    key = form, pages, *net.digests().items(), net.learned.routing_digest()
    if key not in _BODIES:
        _BODIES[key] = onnx_body(net, form).SerializeToString()
    return onnx.load_model_from_string(_BODIES[key])


def reclaim(bundle: dict[str, Any], model: onnx.ModelProto) -> None:
    """Let ``bundle`` claim the digests that this graph has, and no prefixes."""
    held = [*bundle["tasks"], *bundle["superseded"]]
    heads = [logits_name(task["owner"]) for task in held]
    paged = bundle["layout"] == "paged"
    found = lane_digests(Values(detach(model, heads)), heads) if paged else digests(model, heads)
    for task in held:
        task["digest"] = found[logits_name(task["owner"])]
    bundle["prefixes"] = []


def edited(
    archive: Path,
    destination: Path,
    graph: Callable[[onnx.ModelProto], object] = lambda model: None,
    bundle: Callable[[dict[str, Any]], object] = lambda bundle: None,
    files: Callable[[dict[str, bytes]], object] = lambda files: None,
) -> Path:
    """A copy that somebody edited with care: sizes and sums are right, so it reads as a whole archive."""
    with zipfile.ZipFile(archive) as file:
        held = {name: file.read(name) for name in file.namelist()}
    files(held)
    model, described = onnx.load_model_from_string(held["model.onnx"]), json.loads(held["bundle.json"])
    graph(model)
    bundle(described)
    held["model.onnx"] = model.SerializeToString(deterministic=True)
    stated = described["files"]
    kept = {cut["file"]: cut for cut in described["prefixes"]}
    held = {name: data for name, data in held.items() if name in kept or not name.startswith("prefix/")}
    for name, cut in kept.items():
        cut["bytes"] = len(held[name])
    described["files"] = {name: sha256(held[name]).hexdigest() for name in stated if name in held}
    held["bundle.json"] = json.dumps(described).encode()
    said = manifest(*(described[key] for key in ("name", "model_version", "model")))
    held[MANIFEST] = json.dumps(said).encode()
    write_members(held, destination)
    return destination
