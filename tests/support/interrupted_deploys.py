"""A deploy or a rollback that is broken off right after one of its steps, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import closing
from pathlib import Path
from typing import Any

from eideticnet.serving.deploys.connection import connect
from eideticnet.serving.deploys.deploy import deploy, rollback
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import find

TERMS = Policy(accept_unmeasured_routing=True)


def _until(folder: Path, archive: Path | None, step: str, number: int) -> None:
    home = Home(folder)
    with connect(home, find(home)) as server:
        with closing(deploy(server, archive, TERMS) if archive else rollback(server)) as steps:  # type: ignore[type-var]
            for taken in steps:
                if taken.name == step:
                    os.kill(os.getpid(), number)


def broken_off(home: Path, archive: Path | None, step: str, number: int) -> int:
    """Deploy ``archive``, or roll back, and get the signal ``number`` after ``step``; the exit code."""
    process: Any = multiprocessing.get_context("fork").Process(
        target=_until, args=(home, archive, step, number)
    )
    process.start()
    process.join()
    return int(process.exitcode)
