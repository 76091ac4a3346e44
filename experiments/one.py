"""One run of an experiment: one setting and seed, in this process, from where it was to its figures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console

from eideticnet.checkpoint import MANIFEST
from eideticnet.experiments.measured import Measured, measure, remains
from eideticnet.experiments.settings import clock_of, fingerprint
from eideticnet.files import write_whole
from eideticnet.hashing import file_hash
from eideticnet.learn.threads import using
from eideticnet.learn.training import Event
from eideticnet.network import EideticNetwork
from eideticnet.runs import run
from eideticnet.runs.config import Config
from eideticnet.runs.machine import chip
from eideticnet.runs.progress import Display

FIGURES, SECONDS = "figures.json", "seconds.json"
OFTEN = 60.0
"""Seconds between two lines about a task that is being learned."""


def go_on(config: Config, folder: Path, source: Path, console: Console) -> None:
    """Learn what is not learned yet of the run in ``folder``, then measure it."""
    asked = fingerprint(config)
    with run.alone_in(folder, console.print):
        if run.exists(folder):
            net = EideticNetwork.load(folder)
            config = run.continued(net, config, folder)
        else:
            net = run.begin(config)
        run.check(net, config, source)
        data = run.open_data(net, config)
        with using(config.threads or torch.get_num_threads()):
            if not run.is_complete(net, config):
                with _Told(console, net, folder, config.device) as display:
                    run.complete(net, config, data, folder, display)
            tests = {name: each.test for name, each in data.items()}
            found = measure(net, tests, config, folder, _seconds(folder), chip(net))
        told = {"of": file_hash(folder / MANIFEST), "asked": asked, "figures": found.model_dump()}
        write_whole(folder / FIGURES, json.dumps(told, indent=1).encode())


def finished(config: Config, folder: Path) -> Measured | None:
    """The figures in ``folder``, if they are of just this run, as its checkpoint is now, and as this version
    tells them."""
    manifest, told = folder / MANIFEST, read_json(folder / FIGURES)
    if not told or not manifest.exists():
        return None
    if (told.get("of"), told.get("asked")) != (file_hash(manifest), fingerprint(config)):
        return None
    try:
        return Measured.model_validate(told.get("figures"))
    except ValidationError:
        return None


def read_json(file: Path) -> dict[str, Any]:
    """What a file holds, if it is there and whole."""
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):  # of a disk that was full
        return {}
    return found if isinstance(found, dict) else {}


class _Told(Display):
    """Says how far a run is, counts the seconds that each task takes, also over interruptions, and ends it
    where something was forgotten."""

    def __init__(self, console: Console, net: EideticNetwork, folder: Path, device: str) -> None:
        super().__init__(console)
        self._net, self._file = net, folder / SECONDS
        self._spent = _seconds(folder)
        _, self._clock = clock_of(device)
        self._last, self._said = self._clock(), time.monotonic()

    def event(self, event: Event) -> None:
        super().event(event)
        now = self._clock()
        self._spent[event.task] = self._spent.get(event.task, 0.0) + now - self._last
        self._last = now
        write_whole(self._file, json.dumps(self._spent).encode())
        if time.monotonic() - self._said > OFTEN:
            self._said = time.monotonic()
            widths = " ".join(map(str, event.neurons.values()))
            left = f", {widths} neurons" if widths else ""
            self.say(f"{event.task}: {event.phase} {event.epoch + 1}, accuracy {event.accuracy:.4f}{left}")

    def finished(self, text: str) -> None:
        super().finished(text)
        remains(self._net)


def _seconds(folder: Path) -> dict[str, float]:
    return {name: float(spent) for name, spent in read_json(folder / SECONDS).items()}
