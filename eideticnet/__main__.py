"""Command line: ``python -m eideticnet train CONFIG.toml``, ``add-task RUN TASKS.toml``, ``report RUN``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eideticnet import history, run
from eideticnet.config import Config, read_config, read_tasks
from eideticnet.convergence import UnderfitWarning
from eideticnet.errors import ConfigError, EideticError, MissingExtraError
from eideticnet.network import EideticNetwork
from eideticnet.progress import Display

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()


@app.callback()
def main() -> None:
    """Train networks that learn task after task and never forget one."""


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A TOML file; the README describes it.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/NAME.")] = None,
) -> None:
    """Learn all tasks of CONFIG one after another, then the router.

    A run that is complete is left as it is; one that was interrupted goes on.
    """
    settings = read_config(config)
    folder = out or Path("runs") / settings.name
    with run.alone_in(folder, _say):
        net = run.load(folder)[0] if run.exists(folder) else run.begin(settings)
        settings = _continued(net, settings, folder)
        _complete(net, settings, folder)


def _continued(net: EideticNetwork, settings: Config, folder: Path) -> Config:
    """``settings``, with the tasks that were added to the run since it began."""
    recorded = run.recorded_config(net, folder)
    begun_with = recorded.tasks[: len(settings.tasks)] == settings.tasks
    if not begun_with or recorded.made_of() != settings.made_of():
        raise ConfigError(
            f"{folder} was made from another configuration; choose another --out or remove the folder"
        )
    return run.record(net, settings, recorded.tasks)


@app.command("add-task")
def add_task(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    tasks: Annotated[Path, typer.Argument(help="A TOML file with [[tasks]] alone.")],
) -> None:
    """Learn further tasks on top of a run, then fit its router again.

    The router needs the data of all tasks, so it is looked up before anything is trained.
    """
    new = read_tasks(tasks)
    with run.alone_in(folder, _say):
        net, settings = run.load(folder)
        old = ", ".join(f"{t.name} ({t.data})" for t in settings.tasks)
        settings = run.with_tasks(net, settings, new)
        _say(f"the router also needs the data of: {old}")
        _complete(net, settings, folder)


def _complete(net: EideticNetwork, settings: Config, folder: Path) -> None:
    if run.is_complete(net, settings):
        _say(f"{folder} is complete: {len(net.tasks)} tasks")
        return
    data = run.open_data(net, settings)
    missing = len(settings.tasks) - len(net.tasks)
    told = warnings.catch_warnings(action="ignore", category=UnderfitWarning)  # by the lines below
    with told, Display(console, missing + 1) as display:
        run.complete(net, settings, data, folder, display)
    for name, report in net.metadata["report"].items():
        _say(f"{name}: oracle {report['oracle']:.4f}, routed {report['routed']:.4f}")
    for name, doubt in history.read(net).doubts.items():
        _say(f"{name}: {doubt}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: RUN/report.html.")] = None,
) -> None:
    """Show a run as one HTML page: accuracy over time, capacity, pruning, routing."""
    try:
        from eideticnet.report import write_report
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"a report needs {error.name}: pip install 'eideticnet[report]'") from error
    page = out or folder / "report.html"
    write_report(folder, page)
    _say(f"report: {page}")


def _say(text: str) -> None:
    """Print a line as it is: names may look like markup, and paths are not wrapped."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def cli(arguments: Sequence[str] | None = None) -> None:
    """Run a command line; our own errors become one line on standard error and exit status 1."""
    try:
        app(arguments)
    except EideticError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise SystemExit(1) from None


if __name__ == "__main__":
    cli()
