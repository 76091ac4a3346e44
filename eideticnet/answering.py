"""A network that answers: what it has learned, one pass of the trunk, its proof and its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from math import inf
from os import PathLike
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from eideticnet import checkpoint
from eideticnet.arithmetic import Capacity, arithmetic
from eideticnet.checkpoint import Parts
from eideticnet.data.pairs import asked, for_each
from eideticnet.data.rows import Loader, Rows
from eideticnet.decision import Output
from eideticnet.errors import DataError, NotReadyError
from eideticnet.hashing import json_hash
from eideticnet.inputs import Ids, Inputs, refuse
from eideticnet.label_space import respond
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.names import expected
from eideticnet.pages.laying import laid
from eideticnet.program import HEAD, INPUT, Program
from eideticnet.slots import Page
from eideticnet.turns import in_full_precision

Network = TypeVar("Network", bound="Answering")


class Named(NamedTuple):
    """One row's answer by name; both are None for "none of mine"."""

    task: str | None
    label: str | None


class Answering(nn.Module):
    """What was ``learned`` of a trunk, the ``program``, about inputs of one kind."""

    program: Program
    inputs: Inputs
    seed: int
    learned: Learned
    metadata: dict[str, Any]
    planned_tasks: int | None
    _anchor: Tensor

    def _start(self, parts: Parts) -> None:
        self.program, self.inputs, self.seed = parts.program, parts.inputs, parts.seed
        self.learned, self.metadata = parts.learned, parts.metadata
        self.planned_tasks = parts.planned_tasks
        self._saved: dict[str, str] = {}
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @classmethod
    def restore(cls: type[Network], parts: Parts) -> Network:
        """A network put together from its parts, as a checkpoint holds them."""
        net = cls.__new__(cls)
        nn.Module.__init__(net)
        net._start(parts)
        return net

    @property
    def device(self) -> torch.device:
        return self._anchor.device

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks learned so far, in order; an answer's ``task`` is an index into them."""
        return self.learned.current()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of a shared label space, in the order in which they were learned, which
        never changes; an answer's ``label`` is an index into them. Empty where each task has its own."""
        return self.learned.classes

    def task(self, name: str, revision: int | None = None) -> Task:
        """The task called ``name``; ``DataError`` that lists the known ones if there is none."""
        tasks = self.tasks if revision is None else self.learned.tasks
        for task in tasks:
            if task.name == name and revision in (None, task.revision):
                return task
        known = ", ".join(repr(t.name if revision is None else t.label) for t in tasks) or "none"
        wanted = f"{name!r}" if revision is None else f"{name!r}, revision {revision}"
        raise DataError(f"no task {wanted}; known: {known}")

    def rows(self, loaders: Mapping[str, Loader]) -> dict[str, Rows]:
        """What ``loaders`` give, by the name of the task, held against what the network knows of it."""
        if not isinstance(loaders, Mapping):
            raise DataError(f"loaders are a {type(loaders).__name__}; pass a dict of them by the task's name")
        return {n: Rows(n, loader, self.task(n).classes, self.readable) for n, loader in loaders.items()}

    @property
    def readable(self) -> Inputs:
        """The contract of the inputs, within what an embedding that reads them has rows for."""
        reads = (s for s in self.program.steps if s.rule == "embedding" and s.inputs == (INPUT,))
        rows = [int(step.options["rows"]) for step in reads]
        return Ids.of(self.inputs, min(rows)) if rows else self.inputs

    @in_full_precision()
    def forward(self, x: Tensor, task: Tensor | None = None, threshold: Tensor | None = None) -> Output:
        """Answer raw inputs ``x`` (N, *shape) in one pass of the trunk.

        Each head's logits never change by a bit; which head is chosen may, since the router is learned
        again with each task.

        ``task`` (N,) int64 pins rows to a task index, -1 (the default) lets the network choose;
        ``threshold`` (N,) float32 turns a less confident routing into "none of mine", by default
        the calibrated one where ``fit_router`` was asked for one; 0 always answers. Arrays, lists and other
        types of numbers are converted; ``DataError`` for what training or a server would refuse too.
        """
        learned = self.learned  # read once: another thread may be learning
        fitted = learned.routing
        if fitted is None:
            raise NotReadyError(
                "no router knows the present tasks: call fit_router, or pin the task with "
                "net.task_logits(x, name)"
            )
        x = self._asked(x)
        pins = torch.full((len(x),), -1, device=x.device)
        if task is not None:
            pins = for_each("task", task, pins, (-1, len(learned.current()) - 1))
        least = torch.full((len(x),), fitted.threshold, device=x.device)
        if threshold is not None:
            least = for_each("threshold", threshold, least, (0, inf))
        heads, router = learned.votes(x)
        out = respond(fitted, heads, router, pins, least, learned.labels)
        lost = out.label_probs.isnan().any(1) | (pins < 0) & out.task_probs.isnan().any(1)
        refuse(x, lost, "holds numbers too large for the network to answer; give smaller ones")
        return out

    def _asked(self, x: object) -> Tensor:
        """``x`` as it is held against the contract, where the weights are, and normalised."""
        x = asked(x, self.readable)
        return self.inputs.normalise(x.to(self._anchor if x.is_floating_point() else self.device))

    def names(self, out: Output) -> list[Named]:
        """What ``out`` says of each row, by name."""
        expected("out", out, Output)
        learned, tasks = self.learned, self.tasks
        classes = [learned.classes or task.classes for task in tasks]
        pairs = zip(out.task.tolist(), out.label.tolist(), strict=True)
        return [Named(None, None) if t < 0 else Named(tasks[t].name, classes[t][i]) for t, i in pairs]

    @in_full_precision()
    def task_logits(self, x: Tensor, name: str, revision: int | None = None) -> Tensor:
        """Logits (N, C) of one task for raw ``x``, running only what the task reads; those of the
        revision that answers unless another is named."""
        task = self.task(name, revision)
        pieces = self.learned.pieces(self._asked(x), self.learned.closure(task.owner))
        return pieces[task.owner][HEAD]

    def capacity(self) -> Capacity:
        """For each feature group: its ``total``, what each task has, what is ``free``, which is all that no
        task has, and what the ``router`` has meanwhile: its neurons go when the next task comes. Of a group
        of the router's alone (random features) the trunk has none. ``capacity().arithmetic``: what an
        answer costs."""
        learned, program, rows = self.learned, self.program, dict[str, dict[str, int]]()
        owned = learned.owned()
        router = owned.pop(ROUTER, None)
        names = {t.owner: t.label for t in learned.tasks}
        for group in dict.fromkeys([*program.groups, *(router or {})]):
            total, mine = program.groups.get(group, 0), {names[o]: w.get(group, 0) for o, w in owned.items()}
            rows[group] = {"total": total, **mine, "free": total - sum(mine.values())}
            if router is not None:
                rows[group][ROUTER] = router.get(group, 0)
        return Capacity(rows, partial(arithmetic, learned, program, self.inputs))

    def pages(self) -> tuple[Page, ...]:
        """The pages in which tasks lie where they are run together. Who lies in none yet is laid now, and
        stays there: later versions add to these pages, and to their number."""
        learned = self.learned
        learned.pages = laid(learned, self.program, self.inputs, self.planned_tasks)
        return learned.pages

    def digests(self) -> dict[str, str]:
        """SHA-256 of each task and revision by its label, over all that its logits depend on."""
        return self.learned.digests(self.inputs, self.program)

    def state(self) -> str:
        """SHA-256 of all that accuracies depend on, beside the data: of every task, the router, and whether
        labels are shared."""
        return json_hash([self.digests(), self.learned.routing_digest(), self.learned.label_space])

    def verify(self) -> None:
        """Raise ``DamagedError`` if any frozen weight is not what it was when it was frozen."""
        self.learned.verify()

    def save(self, folder: str | PathLike[str]) -> None:
        """Write a checkpoint, whole or not at all; a damaged network is not written."""
        self.pages()
        learned, program = self.learned, self.program  # in this order: the program is never the older one
        parts = Parts(program, self.inputs, self.seed, learned, self.metadata, self.planned_tasks)
        self._saved[os.path.realpath(folder)] = checkpoint.save(parts, folder, self.saved_as(folder))

    def saved_as(self, folder: str | PathLike[str]) -> str | None:
        """SHA-256 of the state in which ``folder`` was last saved or loaded by this network, if it was."""
        return self._saved.get(os.path.realpath(folder))

    @classmethod
    def load(cls: type[Network], folder: str | PathLike[str]) -> Network:
        """Read a checkpoint; every tensor is compared with the SHA-256 of when it was frozen."""
        parts, state = checkpoint.load(folder)
        net = cls.restore(parts)
        net._saved[os.path.realpath(folder)] = state
        return net
