"""``eidetic predict FILE``: ask a running server about what a file holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eideticnet.client.http import Client
from eideticnet.client.options import Options
from eideticnet.client.table import answer_table, json_line
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import find
from eideticnet.serving.home.state import State

_RETRIES = 5
_TYPES = {"raw": "application/octet-stream", "json": "application/json", "npy": "application/x-npy"}
DEFAULT_HOME = Path("server_home")


def _named(value: str) -> Path:
    if not value:  # which would be the working directory
        raise typer.BadParameter("it is empty; expected a folder")
    return Path(value)


HomeFolder = Annotated[
    Path,
    typer.Option(
        "--home", parser=_named, metavar="PATH", help="The server's folder: state, archives, keys, reports."
    ),
]


@dataclass(frozen=True)
class Target:
    """Where to send, with which key, and the model's name."""

    url: str
    key: str | Path
    model: str
    verify: Any = True


def predict(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Instances: .npy, .npz, .json, PNG, JPEG or raw numbers.")
    ],
    home: HomeFolder = DEFAULT_HOME,
    url: Annotated[str, typer.Option(help="Another server; key from --keys or EIDETIC_KEY.")] = "",
    keys: Annotated[Path | None, typer.Option(help="The server's keys.json, with --url.")] = None,
    model: Annotated[
        str, typer.Option("--name", "--model", help="The model; default: the only one there is.")
    ] = "",
    version: Annotated[str, typer.Option(help="A version other than the default.")] = "",
    task: Annotated[str, typer.Option(help="Pin this task; default: the network finds it.")] = "",
    threshold: Annotated[float | None, typer.Option(help='Below it the answer is "unknown".')] = None,
    top_k: Annotated[int | None, typer.Option(help="Also show the N likeliest labels of its task.")] = None,
    probabilities: Annotated[bool, typer.Option(help="Also show those of all tasks and labels.")] = False,
    deadline: Annotated[float, typer.Option(help="Seconds to wait, retries included.")] = 30.0,
    type: Annotated[str, typer.Option(help="raw, json or npy, where the file doesn't tell.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each instance.")] = False,
) -> None:
    """Show what a running server answers to FILE."""
    target = given(url, keys, model) if url else served(home, model)
    options: Options = {
        "task": task or None,
        "threshold": threshold,
        "top_k": top_k,
        "probabilities": probabilities or None,
        "deadline": deadline,
        "version": version,
        "content_type": _TYPES.get(type, type),
    }
    with Client(target.url, target.key, retries=_RETRIES, verify=target.verify) as client:
        answers = client.predict(target.model, file, **options)
    if as_json:
        for row, answer in enumerate(answers):
            print(json_line(row, answer))
    else:
        versions = ", ".join(sorted({answer.model_version for answer in answers}))
        Console(emoji=False).print(answer_table(answers, f"{target.model} {versions}: {file.name}"))


def given(url: str, keys: Path | None, model: str) -> Target:
    """A server of which nothing is known here but its address. No key on the command line, where
    every user of the machine could read it."""
    file = os.environ.get("EIDETIC_KEYS", "")
    key = keys or os.environ.get("EIDETIC_KEY", "") or (Path(file) if file else "")
    model = model or os.environ.get("EIDETIC_MODEL", "")
    if not key or not model:
        raise ServingError("--url needs --keys FILE (or EIDETIC_KEY) and --name (or EIDETIC_MODEL)")
    return Target(url, key, model)


def served(folder: Path, model: str) -> Target:
    """The server that runs in ``folder``; ``ServingError`` if there is none, or not the model."""
    home = Home(folder)
    running = find(home)
    model = State.load(home.state).only(model)
    return Target(running.inference, Path(running.keys), model, running.verify())
