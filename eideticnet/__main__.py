"""Command line: ``python -m eideticnet train CONFIG.toml``, ``add-task RUN TASKS.toml``, ``report RUN``."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console

from eideticnet.errors import ConfigError, DataWarning, EideticError, MissingExtraError, UnderfitWarning
from eideticnet.learn.threads import using
from eideticnet.network import EideticNetwork
from eideticnet.runs import run
from eideticnet.runs.config import Config, read_config, read_tasks
from eideticnet.runs.progress import Display, results
from eideticnet.signals import heeding_signals, stoppable
from eideticnet.users_code import blame, forget, theirs

DEBUG = "EIDETIC_DEBUG"

# Markup would eat what stands in brackets, such as [[tasks]], from help and messages.
app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
console = Console()
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]


@app.callback()
def main() -> None:
    """Train networks that learn task after task and never forget one."""


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file; the README describes it.")],
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Run folder; default: runs/NAME.")] = None,
) -> None:
    """Learn all tasks of CONFIG one after another, then the router.

    A run that is complete is left as it is; one that was interrupted goes on.
    """
    settings = read_config(config)
    folder = _named(out) or settings.folder()
    with stoppable(_goes_on(folder)), run.alone_in(folder, _say):
        if run.exists(folder):
            net = EideticNetwork.load(folder)
            settings = run.continued(net, settings, folder)
        else:
            net = run.begin(settings)
        _complete(net, settings, folder, config)


@app.command("add-task")
def add_task(
    folder: Run,
    tasks: Annotated[Path, typer.Argument(metavar="TASKS", help="A TOML file with [[tasks]] alone.")],
    when_full: Annotated[
        Literal["refuse", "reuse", "widen"] | None,
        typer.Option(help="What to do where a layer is full; default: as the run was configured."),
    ] = None,
) -> None:
    """Learn further tasks on top of RUN, then fit its router again.

    The router needs the data of all tasks, except those that the run keeps examples (`memory`) or moments
    of, so it is looked up before anything is trained.
    """
    new = read_tasks(tasks)
    with stoppable(_goes_on(folder)), run.alone_in(run.existing(folder), _say):
        net, settings = run.load(folder)
        old = ", ".join(f"{t.name} ({t.data})" for t in settings.tasks)
        settings = run.with_tasks(net, settings, new, tasks)
        if when_full is not None:
            settings = run.record(net, settings.model_copy(update={"when_full": when_full}))
        _say(f"the router also needs the data of: {old}")
        _complete(net, settings, folder, folder)


def _complete(net: EideticNetwork, settings: Config, folder: Path, source: Path) -> None:
    if run.is_complete(net, settings):
        _say(f"{folder} is complete: {len(net.tasks)} tasks")
        return
    with _keeping(folder):
        run.check(net, settings, source)
    data = run.open_data(net, settings)
    for name in run.changed_data(net, data):
        _say(
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
        _say(line)


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


@app.command()
def report(
    folder: Run,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The page; default: RUN/report.html.")
    ] = None,
) -> None:
    """Show RUN as one HTML page: accuracy over time, capacity, pruning, routing."""
    try:
        from eideticnet.runs.report import write_report
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"a report needs {error.name}: pip install 'eideticnet[report]'") from error
    page = _named(out) or folder / "report.html"
    with stoppable("no report was written"):
        write_report(run.existing(folder), page)
    _say(f"report: {page}")


@app.command("held-out")
def held_out(
    folder: Run,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new .safetensors file.")],
) -> None:
    """Write RUN's held-out inputs to OUT, as --routing-data of `export verify` and `serving deploy`.

    They are split off the tasks' data once more, the same as in training, or read from the tasks' `test`.
    """
    with stoppable("nothing was written"):
        for line in run.write_held_out(*run.load(run.existing(folder)), out):
            _say(line)


def _warn(text: str, told: set[str]) -> None:
    """A warning as one of our lines, however often it comes."""
    line = text.strip().partition("\n")[0]
    if line not in told:
        told.add(line)
        _say(f"warning: {line}")


def _named(out: str | None) -> Path | None:
    """What --out names; an unset variable of a shell names nothing, and not the working directory."""
    if out is not None and not out.strip():
        raise ConfigError("--out is empty; name what to write, or leave it out")
    return None if out is None else Path(out)


def _say(text: str) -> None:
    """Print a line as it is: names may look like markup, and paths are not wrapped."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _goes_on(folder: Path) -> str:
    return f"what is learned is in {folder}; the same command goes on from there"


def cli(arguments: Sequence[str] | None = None) -> None:
    """Run a command line; what goes wrong becomes one line on standard error and exit status 1."""
    forget(all_of_it=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # what its encoding has no letter for is spelled out
    with heeding_signals(), warnings.catch_warnings():
        told = set[str]()
        warnings.showwarning = lambda message, *_, **__: _warn(str(message), told)
        try:
            app(arguments)
        except Exception as error:
            if os.environ.get(DEBUG):
                traceback.print_exception(error)
            line = " ".join(_in_words(error).splitlines())  # names of files and keys may hold any character
            typer.secho(f"error: {line}", err=True, fg="red")
            raise SystemExit(1) from None


def _in_words(error: Exception) -> str:
    if isinstance(error, EideticError):
        found = "; ".join([str(error), *getattr(error, "__notes__", ())])
        return found if error.__cause__ is None or not theirs(error.__cause__) else f"{found} ({_SHOWS})"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return blame(error) if theirs(error) else f"{blame(error)} (nobody foresaw this; {_SHOWS})"


_SHOWS = f"{DEBUG}=1 shows the stack"


if __name__ == "__main__":
    cli()
