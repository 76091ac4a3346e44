"""One version of a network as a proof sees it: an archive whose graph was opened and digested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from eideticnet.contract.bundle import Bundle, BundledTask, GraphNames
from eideticnet.export.archive.reader import Archive, read_files
from eideticnet.export.errors import ArchiveError
from eideticnet.export.graph.digest import digests
from eideticnet.export.graph.lanes import lane_digests
from eideticnet.export.graph.prefix import cut
from eideticnet.export.graph.tail import (
    INPUTS,
    OUTPUTS,
    ROUTER,
    TailRule,
    attach,
    attach_pinned,
    detach,
    logits_name,
)
from eideticnet.export.graph.values import Values

Key = tuple[str, int]
"""A task's name and its revision."""
Reader = Callable[[Path], tuple[Archive, dict[str, bytes]]]
"""What reads an archive, or has read it."""


@dataclass(frozen=True)
class OpenVersion:
    """``digests`` are those of the graph, by the value's name: what is true, whatever the bundle claims.
    ``values``: what is known of those of the body, if it is paged."""

    archive: Archive
    files: dict[str, bytes]
    graph: onnx.ModelProto
    digests: dict[str, str]
    values: Values | None

    @property
    def bundle(self) -> Bundle:
        return self.archive.bundle

    @property
    def rule(self) -> TailRule:
        return TailRule.of(self.bundle)

    def tasks(self) -> dict[Key, BundledTask]:
        """Every revision of every task that the graph holds, whether or not it answers."""
        return {(task.name, task.revision): task for task in self.bundle.held}

    def digest(self, task: BundledTask) -> str:
        return self.digests[logits_name(task.owner)]


def open_version(path: Path, read: Reader = read_files) -> OpenVersion | str:
    """Read an archive and digest its graph; a sentence where it is of a kind that promises no bits.
    ``ArchiveError`` says what is wrong with it."""
    archive, files = read(path)
    if archive.bundle.minor < 2:
        what = f"{path} is of schema {archive.bundle.schema_version}, which lacks what a proof needs"
        return f"{what}: export it again"
    bundle = archive.bundle
    if bundle.format != "onnx" or bundle.layout not in ("nested", "paged"):
        what = f"{path} is {bundle.format} in the layout {bundle.layout}"
        return f"{what}, and bits are promised for nested and paged ONNX graphs"
    paged = bundle.layout == "paged"
    if paged and bundle.precision != "float32":
        what = f"{path} is paged and of precision {bundle.precision}"
        return f"{what}, and bits of pages are promised for float32, where every number is sure to be finite"
    if paged and not any(task.digest for task in bundle.held):
        return f"{path} has pages whose slots may move: export it again"
    graph = _graph(files, archive.bundle.model)
    names = [logits_name(task.owner) for task in archive.bundle.held]
    if archive.bundle.routing.router != "none":
        names.append(ROUTER)
    try:
        found, values = digests(graph, names), None
        if paged:
            values = Values(detach(graph, names))
            found = lane_digests(values, names)
        return OpenVersion(archive, files, graph, found, values)
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from error


def _graph(files: dict[str, bytes], name: str) -> onnx.ModelProto:
    return onnx.load_model_from_string(files[name])


def contradictions(version: OpenVersion) -> Iterator[str]:
    """Where an archive is not what its own ``bundle.json`` says, one sentence each."""
    counts = Counter((task.name, task.revision) for task in version.bundle.held)
    yield from (f"bundle.json lists {_label(*key)} {n} times" for key, n in counts.items() if n > 1)
    for (name, revision), task in version.tasks().items():
        if task.digest != version.digest(task):
            yield f"bundle.json claims a digest for {_label(name, revision)} that its graph does not have"
    if version.bundle.graph != GraphNames(inputs=INPUTS, outputs=OUTPUTS):
        yield "bundle.json gives the graph's inputs or outputs other meanings than they have"
    heads = list(version.digests)
    body = detach(version.graph, heads)
    if not _same(attach(body, version.rule), version.graph):
        yield "the graph does not route and answer as bundle.json says (its tail is another)"
    if not _same(cut(body, heads), body):
        yield f"{version.bundle.model} holds nodes or tensors that no answer needs"
    yield from _misplaced(version)
    for part in version.bundle.prefixes:
        yield from _prefix_contradictions(version, part.file, part.tasks)


def _misplaced(version: OpenVersion) -> Iterator[str]:
    """Where the map of pages is not that of the graph: a page's heads are cut apart in the order in which its
    owners lie."""
    lie = [owner for page in version.bundle.pages for owner in page.owners]
    owners = [task.owner for task in version.bundle.held]
    if version.values is not None and sorted(lie) != sorted(owners):
        yield f"bundle.json says that pages hold {sorted(lie)}; its tasks are {sorted(owners)}"
        return
    pages = [[logits_name(owner) for owner in page.owners] for page in version.bundle.pages]
    heads = {logits_name(owner) for owner in lie}
    for node in version.graph.graph.node:
        made = [name for name in node.output if name in heads]
        if len(made) > 1 and not any([name for name in page if name in made] == made for page in pages):
            yield f"bundle.json says that {made} lie in other pages, or in another order, than they do"


def _prefix_contradictions(version: OpenVersion, file: str, tasks: int) -> Iterator[str]:
    graph, rule = _graph(version.files, file), version.rule.first(tasks)
    body = detach(graph, rule.heads)
    if not _same(cut(body, rule.heads), cut(detach(version.graph, rule.heads), rule.heads)):
        yield f"{file} computes other logits than {version.bundle.model}"
    if not _same(attach_pinned(body, rule), graph):
        yield f"{file} does not answer as bundle.json says (its tail is another)"
    if not _same(cut(body, rule.heads), body):
        yield f"{file} holds nodes or tensors that no answer needs"


def _label(name: str, revision: int) -> str:
    return f"task {name!r}" + (f", revision {revision}" if revision else "")


def _same(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    return bool(one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True))
