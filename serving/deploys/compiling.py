"""Graphs of .pt2 archives, compiled for this machine's CPU before they are loaded, and kept in the home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from eidetic_runtime.compiled import PROBES, compiled_name
from eideticnet.export.archive.contents import BUNDLE
from eideticnet.export.archive.reader import Archive, read_files
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State, Version
from eideticnet.serving.processes.groups import end_group, owned

COMPILED = "pt2"
"""The format of graphs that can be compiled."""
_SECONDS = 1800.0
_MOST_SAID = 200


def compiled(home: Home, version: Version, archive: Archive) -> str:
    """Compile the graph of an archive in the store, unless that was done before, for this archive or another
    one; what came of it, in a sentence. Where it fails, the graph is served as it is."""
    _, files = read_files(archive.path, revoked=True)
    graph, label = files[archive.bundle.model], f"{archive.name} {archive.version}"
    name = compiled_name(graph)
    target = home.compiled / f"{version.file}.{name}"
    for known in home.compiled.glob(f"*.{name}"):
        if known != target:
            target.unlink(missing_ok=True)
            target.hardlink_to(known)
        return f"{label} was compiled for this machine before"
    began = time.monotonic()
    with TemporaryDirectory(prefix=".compiling-", dir=home.compiled) as folder:
        for name in (archive.bundle.model, BUNDLE):
            (Path(folder) / name).write_bytes(files[name])
        np.save(Path(folder) / PROBES, np.concatenate([archive.probes[t.owner] for t in archive.tasks]))
        problem = _compile(Path(folder), target)
    if problem:
        return f"{label} is served as it is, since it could not be compiled: {problem}"
    return f"{label} was compiled for this machine, in {time.monotonic() - began:.0f} s"


def remove_unneeded_graphs(home: Home, state: State) -> None:
    """Remove what was compiled of archives that no version needs, and what broken-off compilers left."""
    needed = tuple(f"{file}." for file in state.files())
    for path in home.compiled.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith(needed):
            path.unlink(missing_ok=True)


def _compile(folder: Path, target: Path) -> str:
    """Why it failed; "" if it did not. The compiler's files lie in ``folder`` alone."""
    process = subprocess.Popen(
        owned([sys.executable, "-P", "-m", "eidetic_runtime.compiled", str(folder), str(target.resolve())]),
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=_SECONDS)[1].decode("utf-8", "replace").split("\n")
    except subprocess.TimeoutExpired:
        return f"it took more than {_SECONDS:.0f} s"
    finally:
        end_group(process)
    lines = [" ".join(line.split()) for line in said if line.strip()]
    return (lines[-1] if lines else "no reason was given")[:_MOST_SAID] if process.returncode else ""
