"""Model archives: a bundle, our handler and TorchServe's manifest in one reproducible zip file.

torch-model-archiver is not used: its archives differ from run to run, and it deletes a folder of
the model's name in the temporary directory. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eideticnet.contract.bundle import Bundle
from eideticnet.export.archive.contents import BUNDLE, CONFIG, MANIFEST, check_contents, manifest
from eideticnet.export.archive.contract import read_bundle
from eideticnet.export.archive.members import write_members
from eideticnet.export.archive.releases import handler_files
from eideticnet.export.errors import ArchiveError

SERVING: dict[str, Any] = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 32,
    "maxBatchDelay": 1,
    "responseTimeout": 30,
    "startupTimeout": 120,
    "handler": {"device": "auto", "threads": 1},
}


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
        said = manifest(description.name, description.model_version, description.model)
        members[MANIFEST] = json.dumps(said, indent=1, sort_keys=True).encode()
        check_contents(members)
    except ArchiveError as error:
        raise ArchiveError(f"{destination} was not written: {error}") from error
    write_members(members, destination, replace=replace)


def _config(bundle: Bundle, serving: Mapping[str, Any]) -> dict[str, Any]:
    """TorchServe's configuration; no larger batches than an answer may depend on."""
    config = {**SERVING, **serving, "handler": {**SERVING["handler"], **serving.get("handler", {})}}
    most = bundle.limits.max_batch or config["batchSize"]
    return {**config, "batchSize": min(config["batchSize"], most)}
