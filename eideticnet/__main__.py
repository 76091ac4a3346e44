"""The command ``eidetic``: what goes wrong is one line on standard error, with a status that shells know."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from eideticnet.errors import EideticError
from eideticnet.signals import heeding_signals, stoppable

DEBUG = "EIDETIC_DEBUG"
_OBJECTS = 50_000
"""New ones before they are looked through for garbage: an import makes a million, and all of them stay."""


def main(
    arguments: Sequence[str] | None = None, menu: str = "eideticnet.menu", name: str = "eidetic"
) -> None:
    """Run a command line, by default this process's, of the Typer ``app`` in the module ``menu``."""
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # spells out letters that its encoding lacks
    with heeding_signals(), stoppable(), warnings.catch_warnings():
        told = set[str]()
        warnings.showwarning = lambda message, *_, **__: _warn(str(message), told)
        app = import_module(menu).app  # late, as all that takes time: signals are heeded by now
        try:
            app(arguments, prog_name=name)
        except Exception as error:
            import traceback

            import typer

            if os.environ.get(DEBUG):
                traceback.print_exception(error)
            line = " ".join(_in_words(error).splitlines())  # names of files and keys may hold any character
            typer.secho(f"error: {line}", err=True, fg="red")
            raise SystemExit(1) from None


def _warn(text: str, told: set[str]) -> None:
    """A warning as one of our lines, however often it comes."""
    line = text.strip().partition("\n")[0]
    if line not in told:
        told.add(line)
        print(f"warning: {line}", file=sys.stderr)


def _in_words(error: Exception) -> str:
    from eideticnet.users_code import blame, theirs

    if isinstance(error, EideticError):
        found = "; ".join([str(error), *getattr(error, "__notes__", ())])
        return found if error.__cause__ is None or not theirs(error.__cause__) else f"{found} ({_SHOWS})"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"there is not memory enough: {error}"
    return blame(error) if theirs(error) else f"{blame(error)} (this is a bug; {_SHOWS})"


_SHOWS = f"{DEBUG}=1 shows the stack"


if __name__ == "__main__":
    main()
