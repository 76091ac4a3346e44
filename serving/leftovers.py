"""What a server leaves behind that was killed and could not clean up."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from serving.errors import ServingError
from serving.home import Home
from serving.process import PREFIX
from serving.running import Running


def clean_up(home: Home) -> None:
    """End the processes and remove the folder of a server that is gone; the caller holds its lock."""
    if not home.running.exists():
        return
    with suppress(ServingError):  # a damaged server.json names nothing to clean up
        running = Running.read(home.running)
        folder = Path(running.folder)
        if folder.name.startswith(PREFIX):
            _end(running.frontend, folder)
            shutil.rmtree(folder, ignore_errors=True)
    home.running.unlink(missing_ok=True)


def _end(group: int, folder: Path) -> None:
    """End what is left of a process group, if it is still the one that ran in ``folder``."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            ours = os.getpgid(int(entry.name)) == group
            if ours and str(folder).encode() in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
