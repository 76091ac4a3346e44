"""Model archives: a bundle, our handler and TorchServe's manifest in one reproducible zip file.

torch-model-archiver is not used: its archives differ from run to run, and it deletes a folder of
the model's name in the temporary directory. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from export.errors import ArchiveError
from export.packing import pack

HANDLER = "eidetic_handler.py"
MANIFEST = "MAR-INF/MANIFEST.json"
MAX_JSON = 8 << 20
SERVING = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 32,
    "maxBatchDelay": 1,
    "responseTimeout": 30,
    "startupTimeout": 120,
    "handler": {"threads": 1},
}


def write_archive(bundle: Path, handlers: Path, destination: Path) -> None:
    """Pack ``bundle`` and the flat Python files in ``handlers`` into ``destination``, whole or
    not at all; equal inputs give equal bytes."""
    description = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    files = {path.name: path.read_bytes() for path in handlers.glob("eidetic_*.py")}
    files |= {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    files["model-config.yaml"] = yaml.safe_dump(SERVING, sort_keys=True).encode()
    files[MANIFEST] = json.dumps(_manifest(description), indent=1, sort_keys=True).encode()
    pack(files, destination)


def _manifest(bundle: dict[str, Any]) -> dict[str, Any]:
    return {
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": bundle["name"],
            "modelVersion": bundle["model_version"],
            "serializedFile": bundle["model"],
            "handler": HANDLER,
            "configFile": "model-config.yaml",
        },
    }


# Everything that zipfile, zlib, json and safetensors raise on bytes that nobody wrote on purpose.
BROKEN = (
    *(OSError, EOFError, KeyError, ValueError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)


@dataclass(frozen=True)
class Archive:
    """What can be read of an archive without running anything in it."""

    path: Path
    bundle: dict[str, Any]
    probes: dict[str, npt.NDArray[Any]]

    @property
    def name(self) -> str:
        return str(self.bundle["name"])

    @property
    def version(self) -> str:
        return str(self.bundle["model_version"])

    @property
    def tasks(self) -> list[dict[str, Any]]:
        return list(self.bundle["tasks"])

    def files(self) -> dict[str, bytes]:
        """All files in it, by name."""
        return {name: self.file(name) for name in self.names()}

    def names(self) -> list[str]:
        """The names of all files in it."""
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def file(self, name: str) -> bytes:
        """One of the files in it. ``ArchiveError`` if there is none."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        except BROKEN as error:
            raise ArchiveError(f"{self.path}: can't read {name}: {error}") from error


def read_archive(path: Path) -> Archive:
    """Read ``bundle.json`` and the probes. ``ArchiveError`` names the file and what is wrong."""
    if not path.exists():
        raise ArchiveError(f"{path}: there is no such file; python -m export build makes archives")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken:
                raise ArchiveError(f"{path}: {broken} is damaged; copy or export the archive again")
            bundle = json.loads(_read(archive, "bundle.json", MAX_JSON))
            probes = load_tensors(_read(archive, "probes.safetensors"))
    except BROKEN as error:
        raise ArchiveError(f"{path} is not a model archive of ours: {error}") from error
    _check(path, bundle, probes)
    return Archive(path, bundle, probes)


def _read(archive: zipfile.ZipFile, name: str, limit: int | None = None) -> bytes:
    size = archive.getinfo(name).file_size
    if limit is not None and size > limit:
        raise ValueError(f"{name} has {size} bytes, more than {limit}")
    return archive.read(name)


_NEEDED: dict[str, type] = {
    **dict.fromkeys(("schema", "name", "model_version", "format", "model"), str),
    **dict.fromkeys(("input", "limits"), dict),
    "tasks": list,
    "neurons": int,
}
_NEEDED_OF_TASK: dict[str, type] = {"name": str, "owner": str, "classes": list, "neurons": int}


def _check(path: Path, bundle: Any, probes: dict[str, Any]) -> None:
    problem = _first_problem(bundle, _NEEDED, "bundle.json")
    if not problem and bundle["schema"].partition(".")[0] != "1":
        problem = f"bundle.json has schema {bundle['schema']}; this version reads schema 1"
    for task in [] if problem else bundle["tasks"]:
        problem = problem or _first_problem(task, _NEEDED_OF_TASK, "a task in bundle.json")
        if not problem and not len(probes.get(task["owner"], ())):
            problem = f"probes.safetensors holds none for task {task['name']!r}"
    if problem or not bundle["tasks"]:
        raise ArchiveError(f"{path}: {problem or 'it holds no task'}")


def _first_problem(value: Any, needed: dict[str, type], what: str) -> str:
    if not isinstance(value, dict):
        return f"{what} is no JSON object"
    wrong = [key for key, kind in needed.items() if not isinstance(value.get(key), kind)]
    return f"{what} lacks {wrong[0]!r}, or it is not {needed[wrong[0]].__name__}" if wrong else ""
