"""What ``eidetic`` can do. The module of a command is imported when it is asked for: most of them need
libraries that take seconds, or that are not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from eideticnet import __version__
from eideticnet.errors import MissingExtraError
from eideticnet.signals import stoppable

# Markup would eat what stands in brackets, such as [[tasks]], from help and messages.
_SETTINGS: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None}


class Entry(NamedTuple):
    """The ``module`` with a command's function, the ``extras`` that bring its libraries, and what it does."""

    module: str
    extras: str
    text: str


SECTIONS = {
    "Learn": {
        "train": Entry("runs.commands", "train", "Learn the tasks of CONFIG, then the router."),
        "add-task": Entry("runs.commands", "train", "Learn further tasks on top of RUN, then its router."),
        "report": Entry("runs.commands", "train,report", "Show RUN as one HTML page."),
        "held-out": Entry("runs.commands", "train", "Write RUN's held-out inputs, for --routing-data."),
        "experiment": Entry(
            "experiments.commands", "train,experiments", "Run the experiment NAME, or go on with it."
        ),
    },
    "Archives": {
        "export": Entry("export.commands", "train,export,cpu", "Export RUN and pack it into an archive."),
        "verify": Entry("export.commands", "export,cpu", "Prove that NEW forgets nothing."),
        "delta": Entry("export.commands", "export,cpu", "Write what NEW adds to another archive."),
        "apply": Entry("export.commands", "export,cpu", "Make the new archive from OLD and DELTA."),
        "sign": Entry("export.commands", "export,cpu,sign", "Sign ARCHIVE."),
        "verify-signature": Entry("export.commands", "export,cpu,sign", "Check who signed ARCHIVE."),
        "release-handlers": Entry("export.commands", "export,cpu", "Let archives carry these handlers."),
    },
    "Server": {
        "serve": Entry("serving.commands", "serve,cpu", "Serve archives until Ctrl-C or SIGTERM."),
        "deploy": Entry("serving.commands", "serve,cpu", "Let ARCHIVE take over on the running server."),
        "rollback": Entry("serving.commands", "serve,cpu", "Let the version before take over again."),
        "remove": Entry("serving.commands", "serve,cpu", "Serve a model no more."),
        "status": Entry("serving.commands", "serve,cpu", "Show models, versions, workers and queues."),
        "stop": Entry("serving.commands", "serve,cpu", "Stop the server."),
    },
    "Requests": {
        "demo": Entry("serving.demo.commands", "demo,serve,cpu", "Show a page to try a running server."),
        "predict": Entry("client.command", "serve", "Show what a running server answers to FILE."),
        "record": Entry("serving.commands", "serve,cpu", "Write the requests that a server recorded to OUT."),
        "loadtest": Entry("loadtest.commands", "serve,loadtest", "Hold a running server to objectives."),
    },
}
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


def command(name: str) -> Any:
    """The command itself, with its options."""
    module = import_module(f"eideticnet.{ENTRIES[name].module}")
    alone = typer.Typer(add_completion=False, **_SETTINGS)
    alone.command(name)(getattr(module, name.replace("-", "_")))
    return typer.main.get_command(alone)


class _Later(TyperCommand):
    """A command by its name and its text alone, until it is to be run or to tell its options."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        try:
            return command(str(self.name)).make_context(info_name, args, parent, **extra)
        except typer.BadParameter as error:
            from pydantic import ValidationError  # late, as all that takes time

            from eideticnet.contract.parts import in_words

            if isinstance(error.__cause__, ValidationError):
                first = error.__cause__.errors(include_url=False)[0]
                found = "" if first["type"] == "value_error" else f"is {first['input']!r:.80}: "
                error.message = f"{found}{in_words(first)}"
            raise


class _Menu(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, entry in ENTRIES.items():
            self.commands[name] = _Later(name, callback=None, help=entry.text, rich_markup_mode=None)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.text) for name, entry in section.items()])

    def invoke(self, ctx: Any) -> Any:
        try:
            with stoppable():
                return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name, lacks = ctx.invoked_subcommand, (error.name or "").partition(".")[0]
            if lacks in ("", "eideticnet"):
                raise
            raise MissingExtraError(
                f"eidetic {name} needs {lacks}: pip install 'eideticnet[{ENTRIES[name].extras}]'"
            ) from None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"eidetic {__version__}")
        raise typer.Exit


app = typer.Typer(cls=_Menu, no_args_is_help=True, **_SETTINGS)


@app.callback()
def eidetic(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and end.")
    ] = False,
) -> None:
    """Train networks that learn task after task and never forget one; export, prove and serve them."""
