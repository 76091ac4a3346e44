"""What a server leaves behind that was killed, or that was interrupted while it cleaned up."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from eideticnet.serving.errors import ServingError
from eideticnet.serving.files import UNFINISHED
from eideticnet.serving.folder import PREFIX
from eideticnet.serving.home import Home
from eideticnet.serving.process import MARK
from eideticnet.serving.running import Running


def clean_up(home: Home) -> None:
    """End the processes and remove the folders of servers that are gone, and files that they had no time to
    finish; the caller holds the home's lock."""
    for folder in _folders(home):
        _end(folder)
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        for path in [*home.root.glob(f"{UNFINISHED}*"), home.running]:
            path.unlink(missing_ok=True)


def _folders(home: Home) -> list[Path]:
    """Private folders, also that of an older server, which had it elsewhere."""
    found = sorted(home.run.resolve().glob(f"{PREFIX}*"))
    with suppress(ServingError):  # none, or a damaged server.json, which names nothing to clean up
        named = Path(Running.read(home.running).folder)
        if named.name.startswith(PREFIX) and named not in found:
            found.append(named)
    return found


def _end(folder: Path) -> None:
    """End whoever belongs to ``folder``."""
    mark = f"{MARK}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
