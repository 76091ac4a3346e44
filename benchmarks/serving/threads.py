"""Processor time of a server thread by thread (Linux), in groups that say what each is for."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

_GROUPS = {
    "epollEventLoop": "front end: HTTP and sockets",
    "W-": "front end: batching, answers",
    "ForkJoinPool": "front end: hand over to the worker",
    "C1 Compiler": "front end: compilers of Java",
    "C2 Compiler": "front end: compilers of Java",
    "tokio": "front end",
}


def spent(root: int) -> dict[str, float]:
    """Seconds of processor time so far of the process ``root`` and all below it, by group."""
    found: defaultdict[str, float] = defaultdict(float)
    with suppress(psutil.Error):
        top = psutil.Process(root)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error, OSError):
                _add(found, process)
    return found


def _add(found: defaultdict[str, float], process: psutil.Process) -> None:
    java, command = process.name() == "java", " ".join(process.cmdline())
    rest = "front end: the rest" if java else "supervisor" if "eidetic serve" in command else "worker"
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        with suppress(OSError):
            name = (task / "comm").read_text()
            group = next((group for start, group in _GROUPS.items() if name.startswith(start)), rest)
            found[group] += int((task / "schedstat").read_text().split()[0]) / 1e9


def java(root: int) -> psutil.Process:
    """The front end below ``root``."""
    children = psutil.Process(root).children(recursive=True)
    return next(child for child in children if child.name() == "java")
