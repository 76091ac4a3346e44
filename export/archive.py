"""Model archives: a bundle, our handler and TorchServe's manifest in one reproducible zip file.

torch-model-archiver is not used: its archives differ from run to run, and it deletes a folder of
the model's name in the temporary directory. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eideticnet.export.container import read_members, write_members
from eideticnet.export.contents import BUNDLE, CONFIG, MANIFEST, Probes, check_contents, limit, manifest
from eideticnet.export.contract import read_bundle
from eideticnet.export.errors import ArchiveError
from eideticnet.export.files import read_regular
from eideticnet.export.releases import handler_files

SERVING: dict[str, Any] = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 32,
    "maxBatchDelay": 1,
    "responseTimeout": 30,
    "startupTimeout": 120,
    "handler": {"device": "auto", "threads": 1},
}


@dataclass(frozen=True)
class Archive:
    """What can be read of an archive without running anything in it."""

    path: Path
    bundle: dict[str, Any]
    probes: Probes

    @property
    def name(self) -> str:
        return str(self.bundle["name"])

    @property
    def version(self) -> str:
        return str(self.bundle["model_version"])

    @property
    def tasks(self) -> list[dict[str, Any]]:
        return list(self.bundle["tasks"])


def write_archive(
    bundle: Path,
    handlers: Path,
    destination: Path,
    serving: Mapping[str, Any] | None = None,
    *,
    replace: bool = True,
) -> None:
    """Pack ``bundle`` and the handler in ``handlers`` (``handler_files``) into ``destination``, whole or
    not at all; equal inputs give equal bytes. ``serving`` overrides keys of ``SERVING`` and, under
    "handler", of that section. What ``read_archive`` would refuse is not written, and another archive that is
    there stays unless it says ``replace``."""
    members = {p.relative_to(bundle).as_posix(): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    members |= handler_files(handlers)
    try:
        description = read_bundle(members.get(BUNDLE, b""))
        members[CONFIG] = yaml.safe_dump(_config(description, serving or {}), sort_keys=True).encode()
        members[MANIFEST] = json.dumps(manifest(description), indent=1, sort_keys=True).encode()
        check_contents(members)
    except ArchiveError as error:
        raise ArchiveError(f"{destination} was not written: {error}") from error
    write_members(members, destination, replace=replace)


def _config(bundle: dict[str, Any], serving: Mapping[str, Any]) -> dict[str, Any]:
    """TorchServe's configuration; no larger batches than an answer may depend on."""
    config = {**SERVING, **serving, "handler": {**SERVING["handler"], **serving.get("handler", {})}}
    most = bundle["limits"].get("max_batch", config["batchSize"])
    return {**config, "batchSize": min(config["batchSize"], most)}


def read_archive(path: Path, *, revoked: bool = False) -> Archive:
    """Read and check a whole archive. ``ArchiveError`` names the file and what is wrong, also that its
    handler was revoked, unless ``revoked`` ones will do since nothing is to run."""
    return read_files(path, revoked=revoked)[0]


def read_files(path: Path, *, revoked: bool = False) -> tuple[Archive, dict[str, bytes]]:
    """The archive, and all of its files by name, every one checked."""
    check_there(path)
    try:
        members = read_members(path, limit)
        bundle, probes = check_contents(members, revoked=revoked)
    except ArchiveError as error:
        text = str(error)
        raise ArchiveError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    return Archive(path, bundle, probes), members


def check_there(path: Path) -> None:
    """``ArchiveError`` where ``path`` is no regular file, or none that can be read."""
    try:
        read_regular(path).close()
    except FileNotFoundError:
        raise ArchiveError(f"{path}: there is no such file; eidetic export makes archives") from None
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror}") from error
