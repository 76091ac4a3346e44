"""The smallest archive there is, with today's handler, and edits of it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from eideticnet.contract.bundle import SCHEMA
from eideticnet.export.archive.contents import MANIFEST, manifest
from eideticnet.export.archive.members import write_members
from eideticnet.export.archive.releases import handler_files, is_handler

ROOT = Path(__file__).parents[2]
BASE = ROOT / "tests/export/attacks/base.mar"
FLAT = ROOT / "tests/export/flat-handler.mar"
"""``small_archive`` of "net" 1.0 as it was before schema 1.5.0, deflated."""
IMAGE = {"mode": "L", "size": [2, 3], "resize": "bilinear", "layout": "flat", "scale": 255}


def small_archive(
    target: Path,
    bundle: Callable[[dict[str, Any]], object] = lambda bundle: None,
    files: Callable[[dict[str, bytes]], object] = lambda files: None,
) -> Path:
    """The archive at ``target``, edited before its sums are taken."""
    with zipfile.ZipFile(BASE) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if not is_handler(name)}
    held |= handler_files(ROOT / "handlers")
    described = json.loads(held["bundle.json"]) | {"schema": SCHEMA}
    bundle(described)
    files(held)
    described["files"] = {n: sha256(held[n]).hexdigest() for n in (described["model"], "probes.safetensors")}
    held["bundle.json"] = json.dumps(described).encode()
    said = manifest(*(described[key] for key in ("name", "model_version", "model")))
    held[MANIFEST] = json.dumps(said).encode()
    write_members(held, target)
    return target


def flat_handler(files: dict[str, bytes]) -> None:
    """An edit: the last handler that was flat files alone, as archives before schema 1.5.0 hold it."""
    for name in [name for name in files if is_handler(name)]:
        del files[name]
    with zipfile.ZipFile(FLAT) as archive:
        files.update({name: archive.read(name) for name in archive.namelist() if is_handler(name)})


def small_archives(folder: Path) -> dict[str, Path]:
    """ "1" and "2" are versions of "net"; "picture" takes images."""
    return {
        "1": small_archive(folder / "1.mar", lambda b: b.update(name="net")),
        "2": small_archive(folder / "2.mar", lambda b: b.update(name="net", model_version="2.0")),
        "picture": small_archive(folder / "picture.mar", takes_pictures),
    }


def takes_pictures(bundle: dict[str, Any]) -> None:
    """An edit: the network is called "picture", and its inputs may be image files."""
    bundle["name"], bundle["input"]["image"] = "picture", IMAGE
    bundle["limits"]["max_pixels"] = 10_000
