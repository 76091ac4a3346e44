"""Servers of the smallest archive, with today's handler."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from served import Served

from export.container import write_members
from export.contents import MANIFEST, manifest
from export.releases import handler_files, is_handler

ROOT = Path(__file__).parents[2]
BASE = ROOT / "tests/export/attacks/base.mar"
IMAGE = {"mode": "L", "size": [2, 3], "resize": "bilinear", "layout": "flat", "scale": 255}


def _archive(
    target: Path,
    bundle: Callable[[dict[str, Any]], object] = lambda bundle: None,
    files: Callable[[dict[str, bytes]], object] = lambda files: None,
) -> Path:
    with zipfile.ZipFile(BASE) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if not is_handler(name)}
    held |= handler_files(ROOT / "handlers")
    described = json.loads(held["bundle.json"])
    bundle(described)
    files(held)
    described["files"] = {n: sha256(held[n]).hexdigest() for n in (described["model"], "probes.safetensors")}
    held["bundle.json"] = json.dumps(described).encode()
    held[MANIFEST] = json.dumps(manifest(described)).encode()
    write_members(held, target)
    return target


def _picture(bundle: dict[str, Any]) -> None:
    bundle["name"], bundle["schema"], bundle["input"]["image"] = "picture", "1.3.0", IMAGE
    bundle["limits"]["max_pixels"] = 10_000


@pytest.fixture(scope="session")
def make_archive():
    """``make_archive(path, bundle, files)``: the small archive, edited before its sums are taken."""
    return _archive


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """ "1" and "2" are versions of "net"; "picture" takes images; "more" is another model."""
    folder = tmp_path_factory.mktemp("archives")
    return {
        "1": _archive(folder / "1.mar", lambda b: b.update(name="net")),
        "2": _archive(folder / "2.mar", lambda b: b.update(name="net", model_version="2.0")),
        "picture": _archive(folder / "picture.mar", _picture),
        "more": _archive(folder / "more.mar", lambda b: b.update(name="more")),
    }


@pytest.fixture(scope="session")
def server(archives, tmp_path_factory):
    """A server of "net" and "picture" whose keys lie where an operator mounted them."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "home").mkdir(mode=0o777)
    (folder / "home").chmod(0o777)
    secrets = folder / "secrets/keys.json"
    with Served(
        folder / "home", archives["1"], archives["picture"], "--keys", secrets, "--record", 10
    ) as running:
        running.keys = lambda: json.loads(secrets.read_text())
        running.secrets = secrets
        yield running


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A self-signed certificate for this machine, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    files = [folder / "cert.pem", folder / "key.pem"]
    subprocess.run(
        [*command, "-addext", names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True
    )
    files[1].chmod(0o600)
    return files
