"""What a replica holds: the versions of models, and which of them answers. Knows nothing of Ray.

A new version is loaded beside the old one, answers its own probes, and takes over by one assignment; what was
begun ends on the version that it began on.
"""

from __future__ import annotations

import io
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eidetic_runtime.model import Model
from eidetic_runtime.reply import Reply, Row
from eidetic_runtime.telemetry import Batch
from eideticnet.contract.answers import Answer
from eideticnet.errors import EideticError
from eideticnet.export.archive.contents import CONFIG
from eideticnet.export.archive.reader import Archive, read_files
from eideticnet.files import write_whole
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.state import CLOSED
from eideticnet.serving.questions import SHADOW, Question, questions, wrong
from eideticnet.serving.ray.desired import Desired, Source

log = logging.getLogger("eidetic.models")

_NPY = "application/x-npy"


class NotHeldError(ServingError):
    """There is no such model here, or no such version of it."""


class ClosedError(ServingError):
    """A model that takes no more work."""


@dataclass(eq=False)
class Held:
    """One version that answers. ``waiting``: how many requests have asked it and have no answer yet."""

    archive: Archive
    sha256: str
    file: str
    model: Model
    largest: int
    waiting: int = 0

    @property
    def name(self) -> str:
        return self.archive.name

    @property
    def version(self) -> str:
        return self.archive.version

    @property
    def bundle(self) -> dict[str, Any]:
        found: dict[str, Any] = self.model.bundle
        return found

    def answer(self, rows: list[Row]) -> tuple[list[Reply], Batch]:
        """One pass for all of ``rows``, as many as the archive allows in a batch; a bad one's its own
        error."""
        return self.model.answer(rows)

    def check(self) -> None:
        """``ServingError`` unless it answers its own probes: all tasks, and one that the router finds."""
        for question in questions(self.archive):
            (reply,), _ = self.answer([_asked(question)])
            if reply.status != 200:
                raise ServingError(f"{self.name} {self.version} fails at its probes: {reply.body[:300]!r}")
            answer = Answer.model_validate_json(reply.body)
            if problem := wrong(self.archive, question, answer):
                raise ServingError(problem)


def _asked(question: Question) -> Row:
    body = io.BytesIO()
    np.save(body, question.x, allow_pickle=False)
    headers = {name.lower(): value for name, value in question.headers(_NPY).items()}
    return "probe", {**headers, **SHADOW}, {"body": body.getvalue()}


@dataclass(frozen=True)
class Entry:
    """A model: its versions, and which of them answers who names none."""

    default: str
    versions: Mapping[str, Held]


@dataclass
class Models:
    """``fetch`` gives the bytes of an archive. ``entries`` are the models by name: a mapping that is never
    changed but replaced, so who reads it twice may see two; ``problems`` says in sentences what could not be
    held, by model and version."""

    fetch: Callable[[Source], bytes]
    problems: Mapping[tuple[str, str], str] = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def names(self) -> list[str]:
        return sorted(self.entries)

    def open(self) -> list[Held]:
        """The default versions, of models that take requests."""
        found = (entry.versions.get(entry.default) for _, entry in sorted(self.entries.items()))
        return [held for held in found if held]

    def find(self, name: str, version: str | None = None) -> Held:
        """The version of a model that is asked, or its default one. ``NotHeldError`` or ``ClosedError``."""
        entry = self.entry(name)
        if version is None and entry.default == CLOSED:
            raise ClosedError(f"model {name} takes no more requests here")
        held = entry.versions.get(entry.default if version is None else version)
        if held is None:
            known = ", ".join(sorted(entry.versions)) or "none"
            raise NotHeldError(f"model {name} has no version {version}; there are: {known}")
        return held

    def entry(self, name: str) -> Entry:
        """A model; ``NotHeldError`` where there is none of that name."""
        try:
            return self.entries[name]
        except KeyError:
            known = ", ".join(self.names()) or "none"
            raise NotHeldError(f"no model {name[:200]!r} is served here; there are: {known}") from None

    def bring_to(self, desired: Desired) -> None:
        """Hold what is ``desired``. What can't be loaded is told by ``problems``; a model whose new default
        can't be keeps the old one."""
        with self._changing:
            loaded, problems = dict[tuple[str, str], Held](), dict[tuple[str, str], str]()
            for name, version, source in desired.sources():
                try:
                    loaded[name, version] = self._loaded(name, version, source, desired.allow_torch)
                except EideticError as error:
                    problems[name, version] = str(error)
                except Exception as error:
                    log.exception("%s %s could not be loaded", name, version)
                    problems[name, version] = f"{type(error).__name__}: {error}"[:500]
            entries = {name: self._after(name, desired, loaded) for name in desired.models}
            self.entries = {name: entry for name, entry in entries.items() if entry}
            self.problems = problems
        for (name, version), problem in problems.items():
            log.error("%s %s can't be held: %s", name, version, problem)

    def _loaded(self, name: str, version: str, source: Source, allow_torch: bool) -> Held:
        before = self.entries[name].versions.get(version) if name in self.entries else None
        if before is not None and before.sha256 == source.sha256:
            return before
        held = load(self.fetch(source), source, allow_torch)
        if (held.name, held.version) != (name, version):
            raise ServingError(f"{source.archive} holds {held.name} {held.version}, not {name} {version}")
        held.check()
        return held

    def _after(self, name: str, desired: Desired, loaded: Mapping[tuple[str, str], Held]) -> Entry | None:
        wanted, before = desired.models[name], self.entries.get(name)
        versions = {label: loaded[name, label] for label in wanted.versions if (name, label) in loaded}
        if wanted.default in (CLOSED, *versions):
            return Entry(wanted.default, versions)
        if before is None:
            return None
        return Entry(before.default, {**versions, **_only(before.versions, before.default)})


def _only(versions: Mapping[str, Held], label: str) -> dict[str, Held]:
    return {label: versions[label]} if label in versions else {}


def load(data: bytes, source: Source, allow_torch: bool = False) -> Held:
    """The archive ``data``, every file of it checked, run by the runtime of this installation."""
    with tempfile.TemporaryDirectory(prefix="eidetic-model-") as made:
        folder = Path(made)
        path = folder / (source.file if source.file.endswith(".mar") else f"{source.file}.mar")
        write_whole(path, data)
        archive, members = read_files(path)
        path.unlink()
        bundle = archive.bundle
        if bundle.format != "onnx" and not allow_torch:
            raise ServingError(
                f"{source.file} holds {bundle.format}, which can run any code when it is loaded; ONNX "
                "archives hold none. If you trust who made it: allow_torch"
            )
        for name in ("bundle.json", bundle.model, *(prefix.file for prefix in bundle.prefixes)):
            write_whole(folder / name, members[name])
        config = yaml.safe_load(members[CONFIG])
        model = Model(folder, config)
    return Held(archive, source.sha256, source.file, model, int(config.get("batchSize") or 1))


def by_version(asked: Sequence[tuple[Held, Row]]) -> list[tuple[Held, list[int]]]:
    """The places of the requests that one pass may answer, in order: those of one version, no more than it
    takes at a time."""
    found: dict[Held, list[list[int]]] = {}
    for place, (held, _) in enumerate(asked):
        parts = found.setdefault(held, [[]])
        if len(parts[-1]) == held.largest:
            parts.append([])
        parts[-1].append(place)
    return [(held, part) for held, parts in found.items() for part in parts]
