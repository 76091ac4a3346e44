"""The retention proof: whether one archive may replace another.

Proven: every task of the old version stands in the new one with the same digest, recomputed from the
graphs, and gives the same bits on the probes, run here and now. Refused: something that was promised
is not kept. Not comparable: bits are promised for ONNX graphs of one layout, precision and opset, and these
two are not that. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

from eideticnet.export.archive.labeled_inputs import read_inputs
from eideticnet.export.archive.reader import check_there, read_files
from eideticnet.export.errors import ArchiveError, InputsError
from eideticnet.export.graph.session import THREADS
from eideticnet.export.proof.retention import (
    TaskProof,
    changed_promises,
    other_layout,
    other_pages,
    task_proofs,
)
from eideticnet.export.proof.routing_check import RoutingCheck, check_routing, kept_inputs
from eideticnet.export.proof.version import OpenVersion, Reader, contradictions, open_version
from eideticnet.hashing import file_hash

Verdict = Literal["proven", "refused", "not comparable"]
STATUS: dict[Verdict, int] = {"proven": 0, "refused": 1, "not comparable": 3}
"""Exit status of the command for each verdict."""
NO_VERDICT = 2
"""Exit status where nothing could be judged or the report not be written, and of a wrong command line."""
MAX_DROP = 0.02
"""By how much a task's routing may fall, as a fraction of 1, unless told otherwise."""


@dataclass(frozen=True)
class Proof:
    """What was found, ``reasons`` in sentences; ``to_json`` is what is kept of a deploy. Where one of them is
    not ``sound``, they are not read any further, and have no digest there."""

    verdict: Verdict
    old: Path
    new: Path
    reasons: list[str] = field(default_factory=list)
    tasks: list[TaskProof] = field(default_factory=list)
    routing: RoutingCheck | None = None
    sound: bool = True

    def to_json(self, known: Mapping[Path, str] = {}) -> dict[str, Any]:
        """``known``: SHA-256 of archives that need not be read for it."""
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "old": self._described(self.old, known),
            "new": self._described(self.new, known),
            "tasks": [proof.to_json() for proof in self.tasks],
            "routing": None if self.routing is None else self.routing.to_json(),
            "run": {
                "onnxruntime": installed("onnxruntime"),
                "threads": THREADS,
                "machine": platform.machine(),
                "system": platform.system(),
            },
        }

    def _described(self, path: Path, known: Mapping[Path, str]) -> dict[str, str | None]:
        return {"file": path.name, "sha256": (known.get(path) or file_hash(path)) if self.sound else None}


def verify(
    new: Path,
    against: Path,
    routing_data: Path | None = None,
    max_drop: float = MAX_DROP,
    read: Reader = read_files,
) -> Proof:
    """Whether ``new``, which ``read`` gives, may replace ``against``; one that is broken is refused.
    ``ArchiveError`` where one is not there, or the routing data can't be read."""
    for path in (against, new):
        check_there(path)
    try:
        return _compared(new, against, routing_data, max_drop, read)
    except InputsError:
        raise  # the operator's, and no fault of the archives
    except ArchiveError as error:
        return Proof("refused", against, new, [str(error)], sound=False)


def _compared(new: Path, against: Path, routing_data: Path | None, max_drop: float, read: Reader) -> Proof:
    # a handler that was revoked can be replaced by what keeps its promises
    before, after = open_version(against, partial(read_files, revoked=True)), open_version(new, read)
    if isinstance(before, str) or isinstance(after, str):
        reasons = [found for found in (before, after) if isinstance(found, str)]
        return Proof("not comparable", against, new, reasons)
    differences = _toolchain(before, after)
    if differences:
        return Proof("not comparable", against, new, differences)
    problems = [f"{against}: {sentence}" for sentence in contradictions(before)]
    problems += [f"{new}: {sentence}" for sentence in contradictions(after)]
    if other_pages(before.bundle, after.bundle):
        problems += changed_promises(before, after)
        verdict: Verdict = "refused" if problems else "not comparable"
        return Proof(verdict, against, new, problems or other_layout(before, after))
    proofs, wrong = task_proofs(before, after, run=not problems)
    problems += changed_promises(before, after)
    if wrong and not problems and (tools := _other_tools(before, after)):
        return Proof("not comparable", against, new, [*wrong, tools], proofs)
    problems += wrong
    routing = None
    if not problems:
        spec = before.bundle.input
        # the old version's own inputs first: a newcomer does not choose what it is judged by
        kept = None if routing_data else kept_inputs(before) or kept_inputs(after)
        real = read_inputs(routing_data, spec) if routing_data else kept
        routing = check_routing(before, after, real, max_drop)
        problems += routing.reasons if routing.status == "dropped" else []
    return Proof("refused" if problems else "proven", against, new, problems, proofs, routing)


def _toolchain(old: OpenVersion, new: OpenVersion) -> list[str]:
    """Why equal bits can't be expected of these two: precision and opset."""
    found = [("precision", v.bundle.precision) for v in (old, new)]
    opsets = [sorted((o.domain, o.version) for o in v.graph.opset_import) for v in (old, new)]
    reasons = []
    if found[0] != found[1]:
        reasons.append(f"precision is {found[1][1]}, and was {found[0][1]}")
    if opsets[0] != opsets[1]:
        reasons.append(f"opsets are {opsets[1]}, and were {opsets[0]}")
    return reasons


def _other_tools(old: OpenVersion, new: OpenVersion) -> str:
    """Other exporters write other graphs of the same blocks."""
    tools = [{k: v.bundle.tools.get(k) for k in ("torch", "onnx", "onnxscript")} for v in (old, new)]
    if tools[0] == tools[1]:
        return ""
    return f"they were exported with other tools, {tools[0]} and {tools[1]}: export both with the same"
