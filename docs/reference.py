"""What is generated, pages of the site and the published schema: ``python docs/reference.py`` writes it."""

import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from eideticnet.contract.bundle import Bundle
from eideticnet.contract.parts import json_schema
from eideticnet.menu import SECTIONS, command
from eideticnet.runs.config import (
    Config,
    ImageConfig,
    InputConfig,
    PruningConfig,
    RoutingConfig,
    TaskConfig,
    TrainingConfig,
    TrunkConfig,
)

DOCS = Path(__file__).parent
TABLES: dict[str, type[BaseModel]] = {
    "At the top": Config,
    "`[trunk]`": TrunkConfig,
    "`[input]`": InputConfig,
    "`[input.image]`": ImageConfig,
    "`[training]`": TrainingConfig,
    "`[pruning]` and `[router_pruning]`": PruningConfig,
    "`[routing]`": RoutingConfig,
    "`[[tasks]]`": TaskConfig,
}
INTRODUCTION = """# Configuration

What `eidetic train CONFIG.toml` reads. A key that is not known is refused, and the nearest one named. This
page is generated from `eideticnet/runs/config.py`.
"""


def configuration() -> str:
    """Every key of a configuration: what it may be, its default, what it means."""
    parts = [INTRODUCTION]
    for title, model in TABLES.items():
        about = " ".join((model.__doc__ or "").replace("``", "`").split())
        rows = [_row(name, field) for name, field in model.model_fields.items()]
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


def _row(name: str, field: FieldInfo) -> str:
    if field.is_required():
        default = "must be given"
    elif isinstance(field.default, BaseModel) or field.default is None:
        default = ""
    else:
        default = f"`{json.dumps(field.default)}`"
    return f"| `{name}` | {_values(field.annotation)} | {default} | {field.description} |"


def _values(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_values(k) for k in inner if k is not type(None)))
    if origin is tuple:
        of = inner[0]
        return "tables" if isinstance(of, type) and issubclass(of, BaseModel) else f"list of {_values(of)}s"
    if origin is dict:
        return "table" if inner[1] is Any else f"table of {_values(inner[1])}s"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "table"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}[kind]


def pages() -> dict[str, str]:
    """What is generated, by its path from here."""
    schema = json.dumps(json_schema(Bundle), indent=1, ensure_ascii=False) + "\n"
    return {
        "configuration.md": configuration(),
        "cli.md": command_line(),
        "../export/archive/bundle.schema.json": schema,
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
