"""Checkpoints: a folder of safetensors and one JSON file that names them.

The tensors of a frozen block never change, so their file, named by its SHA-256, is written once
and shared by all later states of the network. ``network.json`` is replaced as the last act, in
one step of the file system: a reader finds the state before or the state after.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from eideticnet.block import Block
from eideticnet.data.memory import Examples
from eideticnet.decision import FittedRouting
from eideticnet.errors import CheckpointError, ConfigError
from eideticnet.files import write_whole
from eideticnet.hashing import json_hash
from eideticnet.inputs import Inputs
from eideticnet.label_space import LabelSpace
from eideticnet.learned import Learned, Task
from eideticnet.moments import Moments
from eideticnet.program import Program
from eideticnet.rules import check_steps
from eideticnet.slots import Page, check_pages
from eideticnet.users_code import nearest

SCHEMA = 2
SHARED = 3
"""The schema of a network whose tasks share one label space, which readers of 2 don't know."""
MANIFEST = "network.json"
_TENSOR_FILE = re.compile(
    r"(t\d+|router|probes|memory|moments)-[0-9a-f]{16}\.safetensors(\.partial)?|network\.json\.partial"
)


class Parts(NamedTuple):
    """All that a network is made of."""

    program: Program
    inputs: Inputs
    seed: int
    learned: Learned
    metadata: dict[str, Any]
    planned_tasks: int | None = None


def save(net: Parts, folder: str | PathLike[str], known: str | None) -> str:
    """Write ``net`` into ``folder``, which keeps its previous state until the new one is whole; the
    SHA-256 of the new one. ``known``: that of the state in which the network last saw the folder.

    ``CheckpointError`` if another process has saved there since the network was loaded from or saved to
    that folder, and a task of theirs would be lost.
    """
    learned, program = net.learned, net.program
    learned.verify()
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, fcntl.LOCK_EX):
            _check_nothing_is_lost(folder, learned.digests(net.inputs, program), known)
            manifest = _write_tensors(net, learned, program, folder)
            manifest["sha256"] = _manifest_hash(manifest)
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
            _remove_unused(folder, manifest)
    except OSError as error:
        raise CheckpointError(
            f"can't write checkpoint {folder}: {error}; what was saved there before is intact"
        ) from error
    return str(manifest["sha256"])


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """Keep others from saving into ``folder`` meanwhile, where its file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a pipe would be waited for
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _check_nothing_is_lost(folder: Path, ours: Mapping[str, str], known: str | None) -> None:
    try:
        there = _read_manifest(folder)
        theirs = {Task.label_of(t["name"], t["revision"]): t["digest"] for t in there["tasks"]}
    except (CheckpointError, KeyError, TypeError):
        return  # nothing that could be read and lost
    lost = [label for label, digest in theirs.items() if ours.get(label) != digest]
    if known is not None and lost and there.get("sha256") != known:
        raise CheckpointError(
            f"{folder} was saved by another since this network was loaded from or saved to it: task "
            f"{lost[0]!r} would be lost. Save into another folder, or load it again and learn on top of it"
        )


def _write_tensors(net: Parts, learned: Learned, program: Program, folder: Path) -> dict[str, Any]:
    blocks = []
    for owner, block in ((o, learned.block(o)) for o in learned.blocks):
        blocks.append(
            {
                "owner": owner,
                "reads": list(block.reads),
                "unread": block.unread,
                "widths": block.widths,
                "file": _write_named(folder, owner, dict(block.layers.state_dict())),
                "tensors": block.fingerprint,
                **({} if block.program == program else {"program": block.program.to_json()}),
            }
        )
    digests = learned.digests(net.inputs, program)
    tasks = [
        {
            "name": t.name,
            "owner": t.owner,
            "classes": list(t.classes),
            "revision": t.revision,
            "digest": digests[t.label],
        }
        for t in learned.tasks
    ]
    return {
        "schema": SCHEMA if learned.label_space == "separate" else SHARED,
        "seed": net.seed,
        "inputs": net.inputs.to_json(),
        "program": program.to_json(),
        "tasks": tasks,
        "answering": learned.answering,
        "blocks": blocks,
        "probes": _write_named(folder, "probes", {t.owner: t.probes for t in learned.tasks}),
        **_write_kept(learned, folder),
        "routing": None if learned.routing is None else learned.routing.to_json(),
        "routing_digest": learned.routing_digest(),
        "pages": [page.to_json() for page in learned.pages],
        "metadata": net.metadata,
        **({} if net.planned_tasks is None else {"planned_tasks": net.planned_tasks}),
    }


def _write_kept(learned: Learned, folder: Path) -> dict[str, str]:
    """Files of what is kept for routers to come; none if nothing is kept."""
    kept = {t.owner: t.memory for t in learned.tasks if t.memory is not None}
    files = {}
    if kept:
        examples = {f"{o}.{k}": v for o, e in kept.items() for k, v in (("x", e.x), ("y", e.y))}
        files["memory"] = _write_named(folder, "memory", examples)
    if learned.moments is not None:
        files["moments"] = _write_named(folder, "moments", learned.moments.tensors())
    return files


def _write_named(folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> str:
    data = safetensors.save({k: t.cpu().contiguous() for k, t in tensors.items()})
    name = f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    path = folder / name
    if not path.exists() or path.read_bytes() != data:
        write_whole(path, data)
    return name


def _remove_unused(folder: Path, manifest: Mapping[str, Any]) -> None:
    used = {manifest.get(key) for key in ("probes", "memory", "moments")}
    used |= {block["file"] for block in manifest["blocks"]}
    for path in folder.iterdir():
        if _TENSOR_FILE.fullmatch(path.name) and path.name not in used:
            path.unlink(missing_ok=True)


def load(folder: str | PathLike[str]) -> tuple[Parts, str]:
    """The parts of the network in ``folder``, its tensors and tasks checked by SHA-256, and the SHA-256
    of all."""
    folder = Path(folder)
    try:
        with _locked(folder, fcntl.LOCK_SH):
            return _load(folder)
    except OSError as error:
        raise _missing(folder, error) from error


def _load(folder: Path) -> tuple[Parts, str]:
    manifest = _read_manifest(folder)
    try:
        program = Program.from_json(manifest["program"])
        check_steps(program)
        probes = _read_tensors(folder, manifest["probes"])
        _check_name(folder / manifest["probes"])
        memory, moments = _read_kept(folder, manifest)
        tasks = [
            Task(
                t["name"],
                t["owner"],
                tuple(t["classes"]),
                probes[t["owner"]],
                t["revision"],
                memory.get(t["owner"]),
            )
            for t in manifest["tasks"]
        ]
        blocks = [_read_block(folder, program, b) for b in manifest["blocks"]]
        inputs, seed = Inputs.from_json(manifest["inputs"]), int(manifest["seed"])
        routing = manifest["routing"] and FittedRouting.from_json(manifest["routing"])
        pages = [Page.from_json(page) for page in manifest.get("pages", ())]  # none before pages were laid
        space: LabelSpace = "shared" if manifest["schema"] == SHARED else "separate"
        learned = Learned(tasks, blocks, manifest["answering"], routing, moments, pages, space)
        own = {task.owner: learned.block(task.owner) for task in tasks}
        check_pages(pages, {o: b.widths[o] for o, b in own.items()}, {o: b.reads for o, b in own.items()})
        _check_digests(manifest, learned.digests(inputs, program), folder / MANIFEST)
        if manifest["routing_digest"] != learned.routing_digest():
            raise CheckpointError(
                f"{folder / MANIFEST}: the routing is not what was saved; restore the file from a copy, "
                "or call fit_router again"
            )
        if manifest["sha256"] != _manifest_hash(manifest):
            raise CheckpointError(
                f"{folder / MANIFEST} is not what was saved (something in it was changed); "
                "restore it from a copy"
            )
        planned = manifest.get("planned_tasks")
        return Parts(program, inputs, seed, learned, manifest["metadata"], planned), manifest["sha256"]
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, ConfigError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is not a valid checkpoint: {error!r}") from error


def _read_kept(folder: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, Examples], Moments | None]:
    """Examples by task owner, and moments. No digest of a task covers them, so their files' own
    names have to."""
    found = {}
    for key in ("memory", "moments"):
        if key in manifest:
            found[key] = _read_tensors(folder, manifest[key])
            _check_name(folder / manifest[key])
    examples = found.get("memory", {})
    owners = {name.partition(".")[0] for name in examples}
    memory = {o: Examples(examples[f"{o}.x"], examples[f"{o}.y"]) for o in owners}
    return memory, Moments.from_tensors(found["moments"]) if "moments" in found else None


def _check_name(path: Path) -> None:
    """A tensor file is named by the SHA-256 of its bytes."""
    if hashlib.sha256(path.read_bytes()).hexdigest()[:16] not in path.name:
        raise CheckpointError(f"{path} is not what was saved; restore the file from a copy")


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over all of the manifest but this entry, as it comes back from JSON."""
    return json_hash(json.loads(json.dumps({k: v for k, v in manifest.items() if k != "sha256"})))


def _check_digests(manifest: Mapping[str, Any], digests: Mapping[str, str], path: Path) -> None:
    """The wiring, the normalisation and the names of a task's classes are not in its tensors,
    but in its digest."""
    for task, now in zip(manifest["tasks"], digests.values(), strict=True):
        if task["digest"] != now:
            raise CheckpointError(
                f"{path}: task {task['name']!r} is not what was saved (its wiring, input "
                "contract or classes were changed); restore the file from a copy"
            )


def _missing(folder: Path, error: OSError) -> CheckpointError:
    said = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        said = f"it holds no {MANIFEST}" if folder.is_dir() else "there is no such folder"
        said += meant(folder) or "; eidetic train makes one"
    return CheckpointError(f"no checkpoint in {folder}: {said}")


def meant(folder: Path) -> str:
    """A question about the checkpoint in or beside ``folder`` that is named like it, or nothing."""
    found = (folder, folder.parent)
    return nearest(str(folder), [str(m.parent) for place in found for m in place.glob(f"*/{MANIFEST}")])


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise _missing(folder, error) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema not in (SCHEMA, SHARED):
        raise CheckpointError(
            f"{path} has schema {schema!r}; this version reads schema {SCHEMA} and {SHARED}"
        )
    return manifest  # type: ignore[no-any-return]


def _read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / name
    if not _TENSOR_FILE.fullmatch(name):
        raise CheckpointError(f"{path} is no name of a tensor file; restore {MANIFEST} from a copy")
    try:
        return safetensors.load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"can't read {path}: {error}; restore the file from a copy") from error


def _read_block(folder: Path, program: Program, data: Mapping[str, Any]) -> Block:
    tensors = _read_tensors(folder, data["file"])
    if "program" in data:
        program = Program.from_json(data["program"])
        check_steps(program)
    with torch.device("meta"):
        block = Block(program, data["owner"], tuple(data["reads"]), data["widths"], None, data["unread"])
    block.layers.load_state_dict(tensors, assign=True)
    block.freeze()
    now = block.fingerprint or {}
    changed = sorted(name for name, digest in data["tensors"].items() if now.get(name) != digest)
    if changed:
        raise CheckpointError(
            f"{folder / data['file']}: {changed[0]} of {data['owner']} is not what was frozen; "
            "restore the file from a copy"
        )
    return block
