"""The command ``eidetic`` in a process of its own, and interrupted at what it imports or opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EIDETIC = str(Path(sys.executable).with_name("eidetic"))
_SCRIPT = """
import os, signal, sys

start = sys.argv.pop(1)

def interrupts(event, args):
    if event in ("import", "open") and str(args[0]).startswith(start):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
from eideticnet.__main__ import main
sys.addaudithook(interrupts)
main()
"""


def interrupted(start: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``eidetic``, with Ctrl-C at the first module or file whose name begins with ``start``."""
    command = [sys.executable, "-c", _SCRIPT, start, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
