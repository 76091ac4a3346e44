"""The network: learns task after task, never forgets one, and needs no task id to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from eideticnet import checkpoint
from eideticnet.data import Loader, pooled
from eideticnet.errors import DataError, NotReadyError
from eideticnet.inputs import Inputs
from eideticnet.journal import Journal
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.learning import Plan, WhenFull, free, logits_over, with_room
from eideticnet.program import HEAD, Program
from eideticnet.pruning import Pruning
from eideticnet.reading import Reads, resolve
from eideticnet.routing import Output, RouteByLabel, answer, task_probabilities
from eideticnet.seeding import seeded
from eideticnet.tracing import trace
from eideticnet.training import Classify, Event, Lesson, Objective, Training

Report = Callable[[Event], Any]

ROUTER_PRUNING = Pruning(threshold=0.002)


class EideticNetwork(nn.Module):
    """An ordinary trunk that learns tasks one after another.

    ``trunk`` maps inputs (N, ...) to features (N, F); only its architecture is taken, every
    block starts from fresh weights that ``seed`` decides. ``example_input`` (N, ...) is raw.
    """

    def __init__(
        self, trunk: nn.Module, example_input: Tensor, *, inputs: Inputs | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.inputs = inputs or Inputs.like(example_input)
        self.inputs.check(example_input)
        self.program = trace(trunk, self.inputs.normalise(example_input))
        self._start(seed)

    def _start(self, seed: int) -> None:
        self.seed = seed
        self.metadata: dict[str, Any] = {}
        self.learned = Learned()
        self._anchor: Tensor
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @classmethod
    def restore(
        cls, program: Program, inputs: Inputs, seed: int, learned: Learned, metadata: dict[str, Any]
    ) -> EideticNetwork:
        """A network put together from its parts, as a checkpoint holds them."""
        net = cls.__new__(cls)
        nn.Module.__init__(net)
        net.program, net.inputs = program, inputs
        net._start(seed)
        net.learned, net.metadata = learned, metadata
        return net

    @property
    def device(self) -> torch.device:
        return self._anchor.device

    # -- answering ---------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks learned so far, in order; an answer's ``task`` is an index into them."""
        return self.learned.current()

    def forward(self, x: Tensor, task: Tensor | None = None, threshold: Tensor | None = None) -> Output:
        """Answer raw inputs ``x`` (N, *shape) in one pass of the trunk.

        ``task`` (N,) int64 pins rows to a task index, -1 (the default) lets the router choose;
        ``threshold`` (N,) float32 turns a less confident routing into "none of mine".
        """
        router = self.learned.router()
        if router is None:
            raise NotReadyError(
                "no router knows the present tasks: call fit_router, or pin the task with "
                "net.task_logits(x, name)"
            )
        rows = x.shape[0]
        task = torch.full((rows,), -1, device=x.device) if task is None else task
        threshold = torch.zeros(rows, device=x.device) if threshold is None else threshold
        pieces = self.learned.pieces(self.inputs.normalise(x), self.learned.blocks)
        heads = [pieces[t.owner][HEAD] for t in self.tasks]
        counts = [len(t.classes) for t in self.tasks]
        return answer(heads, task_probabilities(pieces[ROUTER][HEAD], counts), task, threshold)

    def task_logits(self, x: Tensor, name: str, revision: int | None = None) -> Tensor:
        """Logits (N, C) of one task for raw ``x``, running only what the task reads; those of the
        revision that answers unless another is named."""
        task = self.task(name, revision)
        pieces = self.learned.pieces(self.inputs.normalise(x), self.learned.closure(task.owner))
        return pieces[task.owner][HEAD]

    def task(self, name: str, revision: int | None = None) -> Task:
        """The task called ``name``; ``DataError`` that lists the known ones if there is none."""
        tasks = self.tasks if revision is None else self.learned.tasks
        for task in tasks:
            if task.name == name and revision in (None, task.revision):
                return task
        known = ", ".join(repr(t.name if revision is None else t.label) for t in tasks) or "none"
        raise DataError(
            f"no task {name!r}{'' if revision is None else f', revision {revision}'}; known: {known}"
        )

    # -- learning ----------------------------------------------------------------------------

    def train_task(
        self,
        name: str,
        loader: Loader,
        classes: Sequence[str],
        *,
        pruning: Pruning | None = Pruning(),
        training: Training = Training(),
        when_full: WhenFull = "refuse",
        reads: Reads = None,
        pretrained: nn.Module | None = None,
        probes: Tensor | None = None,
        report: Report = lambda event: None,
        journal: Journal | None = None,
    ) -> Task:
        """Learn one more task, whose ``loader`` yields raw (x, y) with y from 0 to C - 1.

        Either the task is added at the end, or an error leaves the network as it was.
        ``pruning=None`` keeps every free neuron. ``probes`` are kept in checkpoints; without
        them random inputs are. Where a layer is full, ``when_full="reuse"`` learns with what
        other layers have free and earlier tasks' neurons, ``"widen"`` makes the layer half as wide
        again. ``reads``: the earlier tasks that this one may build on, by default all.
        ``pretrained``: a trunk whose weights the first task starts from. The router has to be fitted
        again. With a ``journal``, an interrupted call that is made again goes on where it was, and
        ends with the same bits; ``journal.remove()`` once the network is saved.
        """
        self._check_new(name, classes)
        task = Task(name, self._next_owner(), tuple(classes), self._probes(probes))
        lesson = self._lesson(
            task.label, task.owner, loader, Classify(len(classes)), training, report, journal
        )
        return self._add(task, lesson, pruning, when_full, reads, pretrained)

    def revise_task(
        self,
        name: str,
        loader: Loader,
        *,
        pruning: Pruning | None = Pruning(),
        training: Training = Training(),
        when_full: WhenFull = "refuse",
        reads: Reads = None,
        probes: Tensor | None = None,
        report: Report = lambda event: None,
        journal: Journal | None = None,
    ) -> Task:
        """Learn a task anew on top of everything learned since (backward transfer; paper, section 5).

        The new revision has a block and a head of its own and answers from now on; the old one stays
        as it is, to the last bit, and can be made to answer again by ``answer_with``.
        """
        old = self.learned.revisions(self.task(name).name)[-1]
        probes = self._probes(old.probes if probes is None else probes)
        task = Task(name, self._next_owner(), old.classes, probes, old.revision + 1)
        objective = Classify(len(task.classes))
        lesson = self._lesson(task.label, task.owner, loader, objective, training, report, journal)
        return self._add(task, lesson, pruning, when_full, reads)

    def _add(
        self,
        task: Task,
        lesson: Lesson,
        pruning: Pruning | None,
        when_full: WhenFull,
        reads: Reads,
        pretrained: nn.Module | None = None,
    ) -> Task:
        self.learned.verify()
        reading = resolve(reads, self.learned, self.program)
        program = with_room(self.learned, self.program, task.label, reading, when_full)
        plan = Plan(program, task.owner, reading, free(self.learned, program), pretrained)
        block = plan.learn(lesson, self.learned, pruning, self.device)
        self.learned.verify()
        self.program, self.learned = program, self.learned.with_task(task, block)
        return task

    def answer_with(self, name: str, revision: int) -> None:
        """Let this revision of a task answer, from now on."""
        self.learned = self.learned.with_answering(self.task(name, revision))

    def widen(self, by: float | Mapping[str, int]) -> None:
        """Add free neurons: ``by`` times as many as there are in each group, or so many in those
        that are named. No task changes."""
        groups = self.program.groups
        added = by if isinstance(by, Mapping) else {g: ceil(n * by) for g, n in groups.items()}
        unknown = sorted(set(added) - set(groups))
        if unknown or any(n < 0 for n in added.values()):
            what = f"no layer {unknown[0]!r}" if unknown else "a layer can't lose neurons"
            raise DataError(f"widen: {what}; layers: {', '.join(groups)}")
        self.program = self.program.widened(added)

    def fit_router(
        self,
        loaders: Mapping[str, Loader],
        *,
        pruning: Pruning | None = ROUTER_PRUNING,
        training: Training = Training(),
        when_full: WhenFull = "refuse",
        report: Report = lambda event: None,
        journal: Journal | None = None,
    ) -> None:
        """Learn which task an input belongs to, from every task's data by its name.

        The router gets a block of the free neurons, reads everything and is read by nobody;
        with ``when_full="reuse"`` and no free neuron it is linear on the features there are.
        """
        names = [t.name for t in self.tasks]
        if not names or set(loaders) != set(names):
            raise DataError(f"fit_router needs the data of exactly these tasks: {names}, got {list(loaders)}")
        self.learned.verify()
        counts = [len(t.classes) for t in self.tasks]
        offsets = [sum(counts[:i]) for i in range(len(counts))]
        data = pooled([loaders[n] for n in names], offsets)
        seed, objective = f"{ROUTER}{len(names)}", RouteByLabel(counts)
        lesson = self._lesson(ROUTER, seed, data, objective, training, report, journal)
        reading = resolve(None, self.learned, self.program)
        program = with_room(self.learned, self.program, ROUTER, reading, when_full)
        plan = Plan(program, ROUTER, reading, free(self.learned, program))
        block = plan.learn(lesson, self.learned, pruning, self.device)
        self.learned.verify()
        self.program, self.learned = program, self.learned.with_router(block)

    def _lesson(
        self,
        name: str,
        seed: str,
        loader: Loader,
        objective: Objective,
        training: Training,
        report: Report,
        journal: Journal | None = None,
    ) -> Lesson:
        seeds, logits = (self.seed, seed), logits_over(self.learned)
        kept = journal or Journal()
        return Lesson(name, loader, objective, self.inputs, training, seeds, logits, report, kept)

    def _next_owner(self) -> str:
        return f"t{len(self.learned.tasks)}"

    def _probes(self, given: Tensor | None) -> Tensor:
        probes = self._random_probes(self._next_owner()) if given is None else given.detach().cpu().clone()
        self.inputs.check(probes)
        return probes

    def _check_new(self, name: str, classes: Sequence[str]) -> None:
        if name in [t.name for t in self.tasks]:
            raise DataError(f"there is a task {name!r} already; give the new one another name")
        if not name or name in (ROUTER, "total", "free") or "(revision" in name:
            raise DataError(f"{name!r} can't be a task's name; choose another")
        if isinstance(classes, str) or len(classes) < 2 or len(set(classes)) != len(classes):
            raise DataError(f"task {name!r}: classes must be two or more different names, got {classes!r}")

    def _random_probes(self, owner: str, count: int = 8) -> Tensor:
        """Synthetic inputs that fit the contract."""
        low, high = self.inputs.bounds()
        with seeded(self.seed, owner, "probes"):
            if self.inputs.dtype == "int64":
                return torch.randint(int(low), int(high) + 1, (count, *self.inputs.shape))
            return low + (high - low) * torch.rand(count, *self.inputs.shape)

    # -- capacity and proof ------------------------------------------------------------------

    def capacity(self) -> dict[str, dict[str, int]]:
        """For each feature group: its ``total``, what each owner has, and what is ``free``."""
        owned, table = self.learned.owned(), {}
        names = {t.owner: t.label for t in self.learned.tasks}
        for group, total in self.program.groups.items():
            mine = {names.get(o, o): widths[group] for o, widths in owned.items()}
            table[group] = {"total": total, **mine, "free": total - sum(mine.values())}
        return table

    def digests(self) -> dict[str, str]:
        """SHA-256 of each task by name, over everything that its logits depend on."""
        return self.learned.digests(self.inputs, self.program)

    def verify(self) -> None:
        """Raise ``DamagedError`` if any frozen weight is not what it was when it was frozen."""
        self.learned.verify()

    def save(self, folder: str | PathLike[str]) -> None:
        """Write a checkpoint, whole or not at all; a damaged network is not written."""
        checkpoint.save(self, folder)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> EideticNetwork:
        """Read a checkpoint; every tensor is compared with the SHA-256 of when it was frozen."""
        return cls.restore(*checkpoint.load(folder))
