"""What a person sees once the server is ready: the tasks, and a request to paste."""

from __future__ import annotations

import json
import shlex
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.archive import Archive
from serving.ready import example_request
from serving.settings import Ports


def task_table(archive: Archive) -> Table:
    """Task, classes, held-out accuracies and neurons used, as the bundle reports them."""
    table = Table(title=f"{archive.name} {archive.version} ({archive.bundle['format']})")
    for heading in ("task", "classes"):
        table.add_column(heading)
    for heading in ("oracle accuracy", "routed accuracy", "neurons used"):
        table.add_column(heading, justify="right")
    for task in archive.tasks:
        report = task.get("report", {})
        used = f"{task['neurons']} of {archive.bundle['neurons']}"
        row = (_percent(report.get("oracle")), _percent(report.get("routed")), used)
        table.add_row(escape(task["name"]), escape(", ".join(task["classes"])), *row)
    return table


def _percent(value: Any) -> str:
    return "-" if value is None else f"{100 * float(value):.1f} %"


def curl_command(archive: Archive, ports: Ports, key: str) -> str:
    """A request that works when pasted into a shell."""
    body = json.dumps(example_request(archive))
    return " ".join(
        [
            "curl -sS",
            f"-H {shlex.quote(f'Authorization: Bearer {key}')}",
            "-H 'Content-Type: application/json'",
            f"-d {shlex.quote(body)}",
            f"{ports.inference_url}/predictions/{archive.name}",
        ]
    )


def announce(console: Console, archives: list[Archive], ports: Ports, key: str) -> None:
    """Print the tables, and the request without line breaks that would spoil the pasting."""
    for archive in archives:
        console.print(task_table(archive))
        print(curl_command(archive, ports, key))
    console.print(f"\nserving on {ports.inference_url}; Ctrl-C stops everything", highlight=False)
