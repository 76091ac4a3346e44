"""One label space for all tasks: a name that several tasks share is one class.

An answer's class is then an index into all distinct names, in the order in which they were learned, which
no later task changes. Where tasks overlap nobody can, or need, tell which of them an input is of: what the
tasks say of one name is added up, P(class) = sum over tasks of P(task) P(class | task). That is the
``joint`` decision; ``hard`` and ``entropy`` still choose one task, whose head answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eideticnet.decision import (
    FittedRouting,
    Output,
    RouteByLabel,
    answer,
    decide,
    label_log_probabilities,
    read,
    side_by_side,
    task_log_probabilities,
    task_scores,
)
from eideticnet.errors import DataError
from eideticnet.names import same_form

LabelSpace = Literal["separate", "shared"]
"""Whether each task has its own labels, or equal names are one class."""


def distinct(tasks: Iterable[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    """The names of the classes of ``tasks``, pairs of a name and its classes, each once, in their order;
    ``DataError`` where one is written with other code points than another that reads alike."""
    known: dict[str, tuple[str, str]] = {}
    for task, classes in tasks:
        for name in classes:
            other, of = known.setdefault(same_form(name), (name, task))
            if other != name:
                raise DataError(
                    f"task {task!r}: class {name!r} ({name!a}) reads like {other!r} ({other!a}) of "
                    f"task {of!r}; in a shared label space write it the same"
                )
    return tuple(name for name, _ in known.values())


@dataclass(frozen=True)
class Labels:
    """``names`` are those of all K classes; ``places`` holds, for each task that answers, the indices of its
    classes among them."""

    names: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, names: Sequence[str], answering: Iterable[Sequence[str]]) -> Labels:
        """The space of ``names`` for tasks with these classes."""
        index = {name: i for i, name in enumerate(names)}
        return cls(tuple(names), tuple(tuple(index[c] for c in classes) for classes in answering))

    def known(self, device: torch.device) -> Tensor:
        """Which task knows which class, bool (K, T)."""
        known = torch.zeros(len(self.names), len(self.places), dtype=torch.bool)
        for task, places in enumerate(self.places):
            known[list(places), task] = True
        return known.to(device)

    def numbered(self, task: Tensor, label: Tensor) -> Tensor:
        """The index (N,) of each class that is the ``label`` (N,) of its own ``task`` (N,)."""
        width = max(map(len, self.places))
        return self.numbers(width, task.device)[task, label]

    def sure(self, out: Output, decision: str) -> Tensor:
        """How likely each class answered is (N,), which a threshold is held against."""
        known = self.known(out.task_probs.device).to(out.task_probs.dtype)
        classes = out.label_probs if decision == "joint" else out.task_probs @ known.T
        return classes.gather(1, out.label_probs.argmax(1, keepdim=True)).squeeze(1)

    def numbers(self, width: int, device: torch.device) -> Tensor:
        """``places`` (T, width), filled up with 0."""
        rows = [[*places, *[0] * (width - len(places))] for places in self.places]
        return torch.tensor(rows, device=device)


class Shares(NamedTuple):
    """What all tasks say of the classes: ``tasks`` (N, T) are their probabilities, ``classes`` (N, K) those
    of the classes, or where one task is chosen those of all tasks that know a class. ``parts``
    (N, T, C_max): what each task adds to its own classes, where that is done."""

    tasks: Tensor
    classes: Tensor
    parts: Tensor | None


def share(
    fitted: FittedRouting,
    heads: Sequence[Tensor],
    router_logits: Tensor | None,
    labels: Labels,
    temperature: float | None = None,
) -> Shares:
    """Add up what the tasks say; arguments as of ``decide``."""
    if fitted.decision != "joint":
        tasks = decide(fitted, heads, router_logits, temperature)
        known = labels.known(tasks.device).to(tasks.dtype)
        return Shares(tasks, tasks @ known.T, None)
    log_p = label_log_probabilities(fitted, heads)
    tasks = F.softmax(task_scores(fitted, log_p, router_logits, temperature), 1)
    grid, _ = side_by_side([each.exp() for each in log_p])
    parts = grid * tasks[:, :, None]
    places = labels.numbers(grid.shape[2], grid.device)
    return Shares(tasks, _spread(parts.flatten(1), places.flatten(), labels), parts)


def _spread(values: Tensor, places: Tensor, labels: Labels) -> Tensor:
    """``values`` (N, M) added up at their ``places``, (M,) or (N, M), in (N, K)."""
    nothing = values.new_zeros(values.shape[0], len(labels.names))
    return nothing.scatter_add(1, places.expand_as(values), values)


def respond(
    fitted: FittedRouting,
    heads: Sequence[Tensor],
    router_logits: Tensor | None,
    task: Tensor,
    threshold: Tensor,
    labels: Labels | None,
) -> Output:
    """An answer for each row, in a shared space if there are ``labels``; ``task`` and ``threshold`` are those
    of ``answer``, where the latter is held against how likely the class answered is."""
    if labels is None:
        return answer(heads, decide(fitted, heads, router_logits), task, threshold)
    shares = share(fitted, heads, router_logits, labels)
    grid, own = side_by_side(heads)
    numbers = labels.numbers(grid.shape[2], grid.device)
    routed, chosen = task < 0, torch.where(task < 0, shares.tasks.argmax(1), task)
    _, masked = read(grid, own, chosen)
    mine = numbers[chosen]
    label = mine.gather(1, masked.argmax(1, keepdim=True)).squeeze(1)
    label_probs = _spread(F.softmax(masked, 1), mine, labels)
    if shares.parts is not None:
        best = shares.classes.argmax(1)
        gives = own & (numbers == best[:, None, None])
        giver = shares.parts.masked_fill(~gives, -1.0).amax(2).argmax(1)
        label, chosen = torch.where(routed, best, label), torch.where(routed, giver, chosen)
        label_probs = torch.where(routed[:, None], shares.classes, label_probs)
    unknown = routed & (shares.classes.gather(1, label[:, None]).squeeze(1) < threshold)
    none = torch.full_like(task, -1)
    return Output(
        torch.where(unknown, none, chosen),
        torch.where(unknown, none, label),
        shares.tasks,
        label_probs,
        read(grid, own, chosen)[0],
    )


class RouteByName(RouteByLabel):
    """The router's objective in a shared space. It learns the classes of each task, so that tasks which can
    be told apart are; but a task is right if it knows the class."""

    def __init__(self, labels: Labels, label_smoothing: float = 0.0) -> None:
        super().__init__([len(places) for places in labels.places], label_smoothing)
        self.labels = labels

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        names = torch.tensor([i for places in self.labels.places for i in places], device=y.device)
        task = task_log_probabilities(logits, self.counts).argmax(1)
        return self.labels.known(y.device)[names[y], task]
