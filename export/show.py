"""What commands found, as people read it: on standard error, beside what they print for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eideticnet.contract.bundle import Bundle
from eideticnet.export.proof.verify import Proof

_COLOURS = {"proven": "green", "refused": "red", "not comparable": "yellow"}


def show(proof: Proof) -> None:
    """The verdict, its reasons, and a row for each task."""
    console = Console(stderr=True, emoji=False)
    verdict = f"[bold {_COLOURS[proof.verdict]}]{proof.verdict}[/]"
    console.print(f"{verdict}: {escape(str(proof.new))} against {escape(str(proof.old))}", soft_wrap=True)
    for reason in proof.reasons:
        console.print(f"  {reason}", markup=False, soft_wrap=True)
    if proof.tasks:
        console.print(_table(proof))
    if proof.routing is not None:
        console.print(f"routing: {proof.routing.status}")
        for reason in proof.routing.reasons:
            console.print(f"  {reason}", markup=False, soft_wrap=True)


def _table(proof: Proof) -> Table:
    table = Table("task", "digest", "probes' bits", "routing before", "now", "inputs", box=None)
    checked = proof.routing.tasks if proof.routing is not None else []
    routed = {task.name: task for task in checked}
    for task in proof.tasks:
        route = routed.get(task.name)
        table.add_row(
            escape(task.name) + (f" (revision {task.revision})" if task.revision else ""),
            "same" if task.unchanged else "[red]changed[/]",
            {True: "same", False: "[red]differ[/]", None: "not run"}[task.bits],
            f"{route.old:.4f}" if route else "",
            f"{route.new:.4f}" if route else "",
            str(route.rows) if route else "",
        )
    return table


BATCH_DEPENDENT = (
    "warning: dynamic int8 takes its scales from the whole batch, so an answer depends on its batchmates; "
    "this model is to be served one request at a time, and instances of one request still share scales"
)


TORCHSCRIPT = (
    "warning: torch has deprecated TorchScript since 2.11, and a later one may not load this archive: "
    "--format pt2 is its successor, and onnx, the default, needs no torch"
)


NO_RANGE = (
    "each task has a page of its own, since inputs have no range: in a new run with low and high (under "
    "[input], or Inputs(low=, high=)) small tasks share pages and answers cost less"
)


def show_build(bundle: Bundle) -> None:
    """What an export chose, how far it agrees with the network, and what to mind; often nothing."""
    console = Console(stderr=True, emoji=False)
    for name, doubt in doubted(bundle).items():
        console.print(f"warning: {name}: {doubt}", style="yellow", markup=False, soft_wrap=True)
    if measured := bundle.layout_measured:
        console.print(f"layout: {measured['taken']} ({measured['reason']})", markup=False)
    open_range = bundle.input.dtype == "float32" and None in (bundle.input.low, bundle.input.high)
    if open_range and len(bundle.pages) > 2:
        console.print(NO_RANGE, markup=False, soft_wrap=True)
    if found := bundle.accuracy:
        console.print(_agreement(found, f"{bundle.layout} {bundle.precision}"))
        console.print(f"on {found['rows']} rows: {found['inputs']}", markup=False)
    if bundle.format == "torchscript":
        console.print(TORCHSCRIPT, style="yellow", markup=False, soft_wrap=True)
    if bundle.batch_dependent:
        console.print(BATCH_DEPENDENT, style="yellow", markup=False)


def doubted(bundle: Bundle) -> dict[str, str]:
    """Why training may have ended too early, by the task, or the router, of which that is known."""
    said = {task.name: task.report.doubt for task in bundle.tasks} | {"router": bundle.routing.doubt}
    return {name: doubt for name, doubt in said.items() if doubt}


def _agreement(found: dict[str, Any], form: str) -> Table:
    table = Table("against the network in float32", form, box=None)
    table.add_row("same task", f"{found['same_task']:.4f}")
    table.add_row("same label", f"{found['same_label']:.4f}")
    for who, share in found.get("accuracy", {}).items():
        table.add_row(f"accuracy of the {who}", f"{share:.4f}")
    for what, largest in found["max_difference"].items():
        table.add_row(f"largest difference of {what}", f"{largest:.2g}")
    return table
