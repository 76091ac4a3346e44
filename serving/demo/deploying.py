"""A deploy that the page began: its steps as they come, the logits that its proof compares, and what became
of requests that were sent meanwhile. It goes on whether or not anybody looks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eideticnet.export.errors import ArchiveError
from eideticnet.export.proof.logits import SideBySide, side_by_side
from eideticnet.export.proof.verify import Proof
from eideticnet.export.proof.version import OpenVersion, open_version
from eideticnet.serving.demo.asking import Asking, Traffic
from eideticnet.serving.deploys.connection import connect
from eideticnet.serving.deploys.deploy import DeployReport, deploy
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import find

Instance = npt.NDArray[Any] | bytes
_PAUSE_SECONDS = 0.25


@dataclass
class Deploying:
    """What is known so far of a deploy of ``archive``; ``outcome`` is empty while it goes on. ``mine`` are
    the logits of the instance that was asked about last, ``probes`` those of the old version's probes."""

    archive: str
    steps: list[tuple[float, str]] = field(default_factory=list)
    probes: list[SideBySide] = field(default_factory=list)
    mine: list[SideBySide] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    outcome: str = ""
    problem: str = ""


class Deploys:
    """Deploys to the server that runs in ``home``, one at a time."""

    def __init__(self, home: Home, asking: Asking, model: str) -> None:
        self._home, self._asking, self._model = home, asking, model
        self._thread: threading.Thread | None = None
        self.newest: Deploying | None = None

    def begin(self, source: Path, x: Instance | None, zeros: Instance, policy: Policy) -> None:
        """Begin to deploy ``source``; meanwhile ask about the instance ``x``, or about ``zeros``
        where that is None. ``ServingError`` while another deploy goes on."""
        if self._thread is not None and self._thread.is_alive():
            raise ServingError("a deploy is going on: wait for its end")
        found = self.newest = Deploying(source.name)
        self._thread = threading.Thread(
            target=self._run, args=(found, source, x, zeros, policy), name="deploy"
        )
        self._thread.start()

    def follow(self) -> Iterator[Deploying]:
        """The newest deploy, again and again until it is over; nothing if there was none."""
        found, thread = self.newest, self._thread
        while found is not None and thread is not None:
            yield found
            if not thread.is_alive():
                break
            thread.join(_PAUSE_SECONDS)
        if found is not None:
            yield found

    def close(self) -> None:
        """Once a deploy that goes on has ended: it is never broken off."""
        if self._thread is not None:
            self._thread.join()

    def _run(
        self, found: Deploying, source: Path, x: Instance | None, zeros: Instance, policy: Policy
    ) -> None:
        report, outcome = DeployReport("deploy"), "interrupted"
        asked = zeros if x is None else x
        try:
            with (
                self._asking.meanwhile(asked) as found.traffic,
                connect(self._home, find(self._home)) as server,
                closing(deploy(server, source, policy, name=self._model)) as steps,
            ):
                for step in steps:
                    report.add(step.name, step.text, step.found)
                    found.steps.append((report.seconds, step.text))
                    if step.proof is not None:
                        _compare(found, step.proof, x)
            outcome = "done"
        except (ServingError, ArchiveError) as error:
            found.problem = str(error)
            outcome = f"failed: {error}"
        except Exception as error:
            found.problem = f"{type(error).__name__}: {error} (this is a bug)"
            raise
        finally:
            try:
                report.write(self._home.reports, outcome)
            except ServingError as error:
                found.problem = found.problem or f"{outcome}, and the report is lost: {error}"
            found.outcome = outcome


def _compare(found: Deploying, proof: Proof, x: Instance | None) -> None:
    """Run both versions once more, to show what the proof has compared."""
    if not proof.sound:
        return
    old, new = open_version(proof.old), open_version(proof.new)
    if isinstance(old, OpenVersion) and isinstance(new, OpenVersion):
        found.probes = list(side_by_side(old, new))
        found.mine = list(side_by_side(old, new, x[None])) if isinstance(x, np.ndarray) else []
