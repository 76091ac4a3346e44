"""The commands that learn: ``train CONFIG``, ``add-task RUN TASKS``, ``report RUN``, ``held-out RUN OUT``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from eideticnet.errors import ConfigError, DataWarning, EideticError, UnderfitWarning
from eideticnet.learn.threads import using
from eideticnet.network import EideticNetwork
from eideticnet.runs import run
from eideticnet.runs.config import Config, read_config, read_tasks
from eideticnet.runs.progress import Display, console, results, say
from eideticnet.signals import stoppable

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A TOML file; docs/configuration.md has its keys.")
    ],
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Run folder; default: runs/NAME.")] = None,
) -> None:
    """Learn the tasks of CONFIG, then the router.

    A run that is complete is left as it is; one that was interrupted goes on.
    """
    settings = read_config(config)
    folder = _named(out) or settings.folder()
    with stoppable(_goes_on(folder)), run.alone_in(folder, say):
        if run.exists(folder):
            net = EideticNetwork.load(folder)
            settings = run.continued(net, settings, folder)
        else:
            net = run.begin(settings)
        _complete(net, settings, folder, config)


def add_task(
    folder: Run,
    tasks: Annotated[Path, typer.Argument(metavar="TASKS", help="A TOML file with [[tasks]] alone.")],
    when_full: Annotated[
        Literal["refuse", "reuse", "widen"] | None,
        typer.Option(help="What to do where a layer is full; default: as the run was configured."),
    ] = None,
) -> None:
    """Learn further tasks on top of RUN, then its router.

    The router needs the data of all tasks, except those that the run keeps examples (`memory`) or moments
    of, so it is looked up before anything is trained.
    """
    new = read_tasks(tasks)
    with stoppable(_goes_on(folder)), run.alone_in(run.existing(folder), say):
        net, settings = run.load(folder)
        old = ", ".join(f"{t.name} ({t.data})" for t in settings.tasks)
        settings = run.with_tasks(net, settings, new, tasks)
        if when_full is not None:
            settings = run.record(net, settings.model_copy(update={"when_full": when_full}))
        say(f"the router also needs the data of: {old}")
        _complete(net, settings, folder, folder)


def _complete(net: EideticNetwork, settings: Config, folder: Path, source: Path) -> None:
    if run.is_complete(net, settings):
        say(f"{folder} is complete: {len(net.tasks)} tasks")
        return
    with _keeping(folder):
        run.check(net, settings, source)
    data = run.open_data(net, settings)
    for name in run.changed_data(net, data):
        say(
            f"warning: the data of task {name!r} is not what it was learned from: "
            "its figures may count rows as held out that it was trained on"
        )
    missing, before = len(settings.tasks) - len(net.tasks), run.routed(net)
    told = warnings.catch_warnings(action="ignore", category=UnderfitWarning)  # by the lines below
    known = warnings.catch_warnings(action="ignore", category=DataWarning)  # since the data was opened
    threads = using(settings.threads or torch.get_num_threads())
    with _keeping(folder), told, known, threads, Display(console, missing + 1) as display:
        run.complete(net, settings, data, folder, display)
    console.print(results(net, before))
    for line in run.doubts(net):
        say(line)


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    """Let an error say what is learned already."""
    try:
        yield
    except EideticError as error:
        if run.exists(folder):
            saved = EideticNetwork.load(folder).tasks  # the last one is not where the disk is full
            names = ", ".join(task.name for task in saved)
            error.add_note(
                f"{folder} keeps what is learned ({names}), and the same command goes on from there"
            )
        raise


def report(
    folder: Run,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The page; default: RUN/report.html.")
    ] = None,
) -> None:
    """Show RUN as one HTML page.

    Accuracy over time, capacity, pruning, routing.
    """
    from eideticnet.runs.report import write_report  # late: training does without its libraries

    page = _named(out) or folder / "report.html"
    with stoppable("no report was written"):
        write_report(run.existing(folder), page)
    say(f"report: {page}")


def held_out(
    folder: Run,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new .safetensors file.")],
) -> None:
    """Write RUN's held-out inputs, for --routing-data.

    Of `verify` and `deploy`. They are split off the tasks' data once more, the same as in training, or
    read from the tasks' `test`.
    """
    with stoppable("nothing was written"):
        for line in run.write_held_out(*run.load(run.existing(folder)), out):
            say(line)


def _named(out: str | None) -> Path | None:
    """What --out names; an unset variable of a shell names nothing, and not the working directory."""
    if out is not None and not out.strip():
        raise ConfigError("--out is empty; name what to write, or leave it out")
    return None if out is None else Path(out)


def _goes_on(folder: Path) -> str:
    return f"what is learned is in {folder}; the same command goes on from there"
