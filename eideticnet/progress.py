"""Progress of training on a terminal; on anything else, one line for each finished task."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from eideticnet.training import Event


class Display:
    """Shows the events of training, one line a task. Its methods are callbacks."""

    def __init__(self, console: Console, total: int) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TimeElapsedColumn(),
        )
        self.console = console
        self._progress = Progress(*columns, console=console)
        self._all = self._progress.add_task("all tasks", total=total)
        self._phases: list[str] = []

    def event(self, event: Event) -> None:
        """Called after every epoch and every pruning step."""
        widths = " ".join(map(str, event.neurons.values()))
        left = f", {widths} neurons left" if widths else ""
        text = f"{event.task}: {event.phase} {event.epoch + 1}, accuracy {event.accuracy:.4f}{left}"
        self._progress.update(self._all, description=text)

    def finished(self, text: str) -> None:
        """One task, or the router, is done."""
        self._progress.advance(self._all)
        self.console.print(text, highlight=False, markup=False)

    def say(self, line: str) -> None:
        """Something that the user may want to know."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
