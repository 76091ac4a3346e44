"""Progress of training on a terminal; on anything else, one line for each finished task."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from eideticnet.learn.training import Event
from eideticnet.learned import ROUTER
from eideticnet.network import EideticNetwork
from eideticnet.runs.history import read

console = Console(emoji=False)
"""Names may hold colons, which are no emojis."""


def say(line: str, on: Console = console) -> None:
    """Print a line as it is: names may look like markup, and paths are not wrapped."""
    on.print(line, highlight=False, markup=False, soft_wrap=True)


class Display:
    """Shows the events of training, one line a task: ``with Display() as display`` it is a ``report`` for
    ``train_task`` and ``fit_router``. ``total`` counts what is to be learned, if that is known."""

    def __init__(self, console: Console = console, total: int | None = None) -> None:
        self.console, doing = console, TextColumn("{task.description}", markup=False)
        columns = SpinnerColumn(), doing, BarColumn(20), TimeElapsedColumn()
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._all = self._progress.add_task("all tasks", total=total)

    def event(self, event: Event) -> None:
        """Called after every epoch and every pruning step."""
        widths = " ".join(map(str, event.neurons.values()))
        left = f", {widths} neurons left" if widths else ""
        text = f"{event.task}: {event.phase} {event.epoch + 1}, accuracy {event.accuracy:.4f}{left}"
        self._progress.update(self._all, description=text)

    __call__ = event

    def finished(self, text: str) -> None:
        """One task, or the router, is done."""
        self._progress.advance(self._all)
        self.console.print(text, highlight=False, markup=False)

    def say(self, line: str) -> None:
        """Something that the user may want to know."""
        say(line, self.console)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


def results(net: EideticNetwork, before: Mapping[str, float]) -> Table:
    """How good each task is, as it was measured last; ``before`` holds what was routed right before the
    last task came."""
    table, history = Table(), read(net)
    doubts, costs = history.doubts, {name: c.cost for name, c in history.pruning.items() if c.cost}
    table.add_column("task", overflow="fold")
    for heading in ("oracle accuracy", "routed accuracy", *(["routed before"] if before else [])):
        table.add_column(heading, justify="right")
    if costs:
        table.add_column("what the budget cost in training", justify="right")
    if doubts:
        table.add_column("training")
    for name in [*(task.name for task in net.tasks), *([ROUTER] if ROUTER in doubts else [])]:
        report = net.metadata["report"].get(name, {})
        shares = [report.get("oracle"), report.get("routed"), *([before.get(name)] if before else [])]
        cells = ["-" if share is None else f"{share:.1%}" for share in shares]
        cells += [costs.get(name, "-")] if costs else []
        table.add_row(Text(name), *cells, *(["ended too early"] if name in doubts else []))
    return table
