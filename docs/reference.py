"""What is generated, pages of the site and the published schema: ``python docs/reference.py`` writes it."""

import ast
import inspect
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from typer.cli import get_docs_for_click

from eideticnet.contract.bundle import Bundle
from eideticnet.contract.parts import json_schema
from eideticnet.experiments import tables
from eideticnet.experiments.settings import Experiment, Paper
from eideticnet.inputs import ImageInput, Inputs
from eideticnet.learn.pruning import Pruning
from eideticnet.menu import SECTIONS, command
from eideticnet.runs.config import Config, RoutingTable, TaskConfig, TrainingTable, TrunkConfig
from eideticnet.runs.problems import keys_of

DOCS = Path(__file__).parent
TABLES: dict[str, type] = {
    "At the top": Config,
    "`[trunk]`": TrunkConfig,
    "`[input]`": Inputs,
    "`[input.image]`": ImageInput,
    "`[training]`": TrainingTable,
    "`[pruning]` and `[router_pruning]`": Pruning,
    "`[routing]`": RoutingTable,
    "`[[tasks]]`": TaskConfig,
    "`[experiment]`": Experiment,
    "`[experiment.paper]`": Paper,
}
INTRODUCTION = """# Configuration

What `eidetic train CONFIG.toml` reads. A key that is not known is refused, and the nearest one named. This
page is generated from `eideticnet/runs/config.py` and the classes of the Python API.
"""


def configuration() -> str:
    """Every key of a configuration: what it may be, its default, what it means."""
    parts = [INTRODUCTION]
    for title, model in TABLES.items():
        about = " ".join((model.__doc__ or "").partition("\n\n")[0].replace("``", "`").split())
        meanings, defaults = _meanings(model), _defaults(model)
        rows = [
            f"| `{name}` | {_values(kind)} | {_default(name, defaults)} | {meanings[name]} |"
            for name, kind in keys_of(model).items()
        ]
        parts.append(
            "\n".join(
                [f"## {title}\n\n{about}\n", "| key | value | default | |", "|---|---|---|---|", *rows, ""]
            )
        )
    return "\n".join(parts)


def command_line() -> str:
    """Every command with its options, as typer shows them."""
    parts = ["# Command line\n"]
    for title, section in SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in section:
            found = command(name)
            context = click.Context(found, info_name=f"eidetic {name}")
            parts.append(get_docs_for_click(obj=found, ctx=context, name=f"eidetic {name}", indent=2))
    return "\n".join(parts)


def _meanings(model: type) -> dict[str, str]:
    """What the text below each attribute says, of the class and of those that it inherits from."""
    found = {}
    for part in (part for part in reversed(model.__mro__) if part.__module__.startswith("eideticnet")):
        (tree,) = ast.parse(inspect.getsource(part)).body
        assert isinstance(tree, ast.ClassDef)
        for line, below in pairwise(tree.body):
            if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(line.target)] = " ".join(ast.literal_eval(below.value).split())
    return found


def _defaults(model: type) -> dict[str, Any]:
    if is_dataclass(model):
        return {field.name: field.default for field in fields(model) if field.default is not MISSING}
    return {name: field.default for name, field in model.model_fields.items() if not field.is_required()}


def _default(name: str, known: dict[str, Any]) -> str:
    if name not in known:
        return "must be given"
    default = known[name]
    return "" if default is None or _is_table(default) else f"`{json.dumps(default)}`"


def _is_table(kind: Any) -> bool:
    return is_dataclass(kind) or issubclass(kind if isinstance(kind, type) else type(kind), BaseModel)


def _values(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_values(k) for k in inner if k is not type(None)))
    if origin is tuple:
        of = inner[0]
        return "tables" if _is_table(of) else f"list of {_plural(of)}"
    if origin is list:
        return "list"
    if origin in (dict, Mapping):
        return "table" if inner[1] is Any else f"table of {_plural(inner[1])}"
    if _is_table(kind):
        return "table"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}[kind]


def _plural(kind: Any) -> str:
    """Several of them; only a single word takes an s."""
    one = _values(kind)
    if one.startswith("`"):
        return one
    return one.replace("list", "lists", 1) if one.startswith("list") else f"{one}s"


def pages() -> dict[str, str]:
    """What is generated, by its path from here."""
    schema = json.dumps(json_schema(Bundle), indent=1, ensure_ascii=False) + "\n"
    return {
        "configuration.md": configuration(),
        "cli.md": command_line(),
        "../export/archive/bundle.schema.json": schema,
        **tables.pages(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
