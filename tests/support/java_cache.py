"""What Java loads and links when TorchServe starts, done once and kept: half of the work of a start."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

import psutil
from filelock import FileLock

from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.torchserve import process
from tests.support.own_ports import own_ports
from tests.support.smallest_archive import small_archive

QUICK = "-XX:TieredStopAtLevel=1"
"""Compile once, and not again what runs often: half of the work of a server that lives for seconds."""
_KEPT = Path(sys.prefix, "cache/java.aot")
"""Java does without it when it, Java or TorchServe is no longer the same."""


@cache
def quick_java() -> list[str]:
    """Options with which a server starts quickly."""
    _KEPT.parent.mkdir(exist_ok=True)
    with FileLock(f"{_KEPT}.lock"):
        if not _KEPT.exists():
            _make()
    return [QUICK, f"-XX:AOTCache={_KEPT}"]


def _make() -> None:
    """Watch a server from its start to its end."""
    from tests.support.bare_torchserve import wait_until_ready  # late: others there are started with this

    with tempfile.TemporaryDirectory() as folder:
        seen = [QUICK, "-XX:AOTMode=record", f"-XX:AOTConfiguration={folder}/seen"]
        archives = [read_archive(small_archive(Path(folder, "net-1.0.mar")))]
        with patch.object(process, "JAVA_OPTIONS", [*process.JAVA_OPTIONS, *seen]):
            server = process.TorchServe(archives, own_ports())
        with server:
            wait_until_ready(server, archives).close()
            java, *options = psutil.Process(server.pid).cmdline()
        made = [java, f"-XX:AOTCache={folder}/made", *options]
        subprocess.run([each.replace("=record", "=create") for each in made], check=True, capture_output=True)
        shutil.move(f"{folder}/made", _KEPT)
