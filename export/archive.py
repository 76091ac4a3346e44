"""Model archives: a bundle, our handler and TorchServe's manifest in one reproducible zip file.

torch-model-archiver is not used: its archives differ from run to run, and it deletes a folder of
the model's name in the temporary directory. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from export.errors import ArchiveError

HANDLER = "eidetic_handler.py"
MANIFEST = "MAR-INF/MANIFEST.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAX_JSON = 8 << 20
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
    files = {path.name: path.read_bytes() for path in [*bundle.iterdir(), *handlers.glob("eidetic_*.py")]}
    files["model-config.yaml"] = yaml.safe_dump(SERVING, sort_keys=True).encode()
    files[MANIFEST] = json.dumps(_manifest(description), indent=1, sort_keys=True).encode()
    partial = destination.with_name(destination.name + ".partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name in sorted(files):
                archive.writestr(_entry(name), files[name])
        partial.replace(destination)
    except OSError as error:
        raise ArchiveError(f"can't write {destination}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry


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


def read_archive(path: Path) -> Archive:
    """Read ``bundle.json`` and the probes. ``ArchiveError`` names the file and what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken:
                raise ArchiveError(f"{path}: {broken} is damaged; copy or export the archive again")
            bundle = json.loads(_read(archive, "bundle.json", _MAX_JSON))
            probes = load_tensors(_read(archive, "probes.safetensors"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, SafetensorError) as error:
        raise ArchiveError(f"{path} is not a model archive of ours: {error}") from error
    _check(path, bundle)
    return Archive(path, bundle, probes)


def _read(archive: zipfile.ZipFile, name: str, limit: int | None = None) -> bytes:
    size = archive.getinfo(name).file_size
    if limit is not None and size > limit:
        raise ValueError(f"{name} has {size} bytes, more than {limit}")
    return archive.read(name)


def _check(path: Path, bundle: Any) -> None:
    needed = ("schema", "name", "model_version", "format", "model", "input", "tasks", "limits", "neurons")
    missing = [key for key in needed if key not in bundle] if isinstance(bundle, dict) else needed
    if missing:
        raise ArchiveError(f"{path}: bundle.json lacks {', '.join(missing)}")
    major = str(bundle["schema"]).partition(".")[0]
    if major != "1":
        raise ArchiveError(f"{path}: bundle.json has schema {bundle['schema']}; this version reads schema 1")


def find_archives(folder: Path) -> Iterable[Path]:
    """The model archives in a folder, by name."""
    return sorted(folder.glob("*.mar"))
