"""A proof as people read it: on standard error, beside the JSON on standard output."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from export.verify import Report

_COLOURS = {"proven": "green", "refused": "red", "not comparable": "yellow"}


def show(report: Report) -> None:
    """The verdict, its reasons, and a row for each task."""
    console = Console(stderr=True)
    console.print(f"[bold {_COLOURS[report.verdict]}]{report.verdict}[/]: {report.new} against {report.old}")
    for reason in report.reasons:
        console.print(f"  {reason}", markup=False)
    if report.tasks:
        console.print(_table(report))
    if report.routing is not None:
        console.print(f"routing: {report.routing.status}")
        for reason in report.routing.reasons:
            console.print(f"  {reason}", markup=False)


def _table(report: Report) -> Table:
    table = Table("task", "digest", "probes' bits", "routing before", "now", "inputs", box=None)
    checked = report.routing.tasks if report.routing is not None else []
    routed = {task.name: task for task in checked}
    for proof in report.tasks:
        route = routed.get(proof.name)
        table.add_row(
            proof.name + (f" (revision {proof.revision})" if proof.revision else ""),
            "same" if proof.unchanged else "[red]changed[/]",
            {True: "same", False: "[red]differ[/]", None: "not run"}[proof.bits],
            f"{route.old:.4f}" if route else "",
            f"{route.new:.4f}" if route else "",
            str(route.rows) if route else "",
        )
    return table
