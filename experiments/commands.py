"""The command ``experiment NAME``: its runs, each in a process of its own, and their result."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from eideticnet.errors import ConfigError, EideticError
from eideticnet.experiments import results, settings
from eideticnet.experiments.fetching import data_in
from eideticnet.experiments.one import finished, go_on
from eideticnet.experiments.settings import Plan, Setting
from eideticnet.runs import run
from eideticnet.runs.progress import console, say
from eideticnet.signals import stoppable, unhurried
from eideticnet.users_code import nearest

Job = tuple[Setting, int]
RUNS = Path("runs/experiments")
RESULTS = RUNS / "results"
OWN = ("joint", "single")
"""Baselines that need no other environment than this,"""
AVALANCHE = Path(".venv-baselines/bin/python")
"""as the others do."""


def experiment(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="One of docs/experiments.md, or a TOML file with [experiment]."),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where the data sets lie; default: EIDETIC_DATA.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Torch's; default: the file's.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of the runs; default: runs/experiments/NAME.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", help="Instead of the file's, such as 0,1,2.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="RUN", help="This one, such as seed-0, in this process alone.")
    ] = None,
    compared: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Whether to run what it is compared with, too.")
    ] = True,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default: one a core, on a GPU one.")
    ] = None,
    store: Annotated[
        Path, typer.Option("--results", metavar="FOLDER", help="Where NAME.json goes.")
    ] = RESULTS,
) -> None:
    """Run the experiment NAME, or go on with it.

    Each setting and seed is a run in a process of one thread; what is complete is left as it is. Then the
    result is written.
    """
    plan = settings.read(name)
    out = out or RUNS / plan.name
    todo = [(setting, seed) for setting in plan.settings for seed in _seeds(seeds, plan)]
    with data_in(data), stoppable(f"the same command goes on with what is in {out}"):
        if only is not None:
            setting, seed = _named(only, todo)
            config = plan.config(setting, seed, device)
            go_on(config, results.folder_of(out, setting, seed), plan.file, console)
            return
        todo = [(s, seed) for s, seed in todo if not _is_finished(plan, s, seed, out)]
        orders = {_label(job): _command(plan, job, out, device) for job in todo}
        if compared:
            orders |= dict(_baselines(plan, _seeds(seeds, plan), out))
        if orders:
            _look_at_data(plan)
        failed = _run_all(orders, run.usable(plan.config(plan.settings[0], 0, device).device).type, jobs)
    result = results.gather(plan, out)
    if result.runs:
        for line in results.summary(result):
            say(line)
        say(f"result: {results.write(result, store)}")
    if failed:
        raise EideticError(f"{len(failed)} of {len(orders)} runs failed: {', '.join(failed)}; see above")


def _look_at_data(plan: Plan) -> None:
    """``DataError`` where the first task's data can't be had: said once, and not by each run."""
    config = plan.config(plan.settings[0], plan.experiment.seeds[0])
    run.opened(config.tasks[0], config)


def _is_finished(plan: Plan, setting: Setting, seed: int, out: Path) -> bool:
    return finished(plan.config(setting, seed), results.folder_of(out, setting, seed)) is not None


def _run_all(orders: Mapping[str, Sequence[str]], device: str, jobs: int | None) -> list[str]:
    """Run the commands, several at a time; the labels of those that failed."""
    jobs = jobs or (len(os.sched_getaffinity(0)) if device == "cpu" else 1)
    with ThreadPoolExecutor(jobs) as pool, _Children() as children:
        ended = list(pool.map(lambda order: children.run(order[1], order[0]), orders.items()))
    return [label for label, status in zip(orders, ended, strict=True) if status]


def _baselines(plan: Plan, seeds: Sequence[int], out: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of what an experiment is compared with, as far as there are programs for it."""
    for method in plan.experiment.baselines:
        python = sys.executable if method in OWN else str(AVALANCHE)
        if method not in OWN and not AVALANCHE.exists():
            say(f"{method} is left out: `make .venv-baselines/installed` makes its environment")
            continue
        for seed in seeds:
            file = out / results.BASELINES / method / f"seed-{seed}.json"
            command = [python, "-m", "eideticnet.experiments.baselines", _called(plan), "--method", method]
            if results.baseline(plan, file, seed) is None:
                file.unlink(missing_ok=True)  # of another configuration
                yield f"{method}/seed-{seed}", [*command, "--seed", str(seed), "--out", str(file)]


def _command(plan: Plan, job: Job, out: Path, device: str | None) -> list[str]:
    command = [sys.executable, "-m", "eideticnet", "experiment", _called(plan), "--out", str(out)]
    command += ["--only", _label(job), "--seeds", str(job[1])]
    return [*command, *(["--device", device] if device else [])]


def _called(plan: Plan) -> str:
    return plan.file.stem if plan.file.parent == settings.FOLDER else str(plan.file)


class _Children:
    """Processes that end with this one."""

    def __init__(self) -> None:
        self._living: set[subprocess.Popen[str]] = set()
        self._lock, self._ending = threading.Lock(), False

    def run(self, command: Sequence[str], label: str) -> int:
        """Run a command to its end, its lines after its label; its status."""
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self._lock:
            if self._ending:
                return 1
            process = subprocess.Popen(
                command,
                env=os.environ | one,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._living.add(process)
        with process:
            assert process.stdout is not None, "it is a pipe"
            for line in process.stdout:
                say(f"[{label}] {line.rstrip()}")
        with self._lock:
            self._living.discard(process)
        return process.returncode

    def __enter__(self) -> _Children:
        return self

    def __exit__(self, *error: Any) -> None:
        """Ask those that still run to end, which they do after their last epoch was written down."""
        with unhurried(), self._lock:
            self._ending = True
            for process in self._living:
                process.terminate()


def _label(job: Job) -> str:
    setting, seed = job
    return f"{setting.folder}/seed-{seed}" if setting.folder else f"seed-{seed}"


def _named(only: str, todo: Sequence[Job]) -> Job:
    known = {_label(job): job for job in todo}
    if only not in known:
        near = nearest(only, known) or f"; there are {', '.join(known)}"
        raise ConfigError(f"--only {only}: there is no such run{near}")
    return known[only]


def _seeds(given: str | None, plan: Plan) -> Sequence[int]:
    if given is None:
        return plan.experiment.seeds
    try:
        seeds = [int(part) for part in given.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0:
        raise ConfigError(f"--seeds {given}: give whole numbers from 0 with commas, such as 0,1,2")
    return list(dict.fromkeys(seeds))
