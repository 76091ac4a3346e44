"""The command lines, interrupted at what they import or open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import os, runpy, signal, sys

package, start = sys.argv.pop(1), sys.argv.pop(1)

def interrupts(event, args):
    if event in ("import", "open") and str(args[0]).startswith(start):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
sys.addaudithook(interrupts)
runpy.run_module(package, run_name="__main__")
"""


def interrupted(package: str, start: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m package``, with Ctrl-C at the first module or file whose name begins with ``start``."""
    command = [sys.executable, "-c", _SCRIPT, package, start, *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
