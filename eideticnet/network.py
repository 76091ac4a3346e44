"""The network: learns task after task, never forgets one, and needs no task id to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eideticnet import checkpoint
from eideticnet.block import Block
from eideticnet.data import Loader, pooled
from eideticnet.errors import CapacityError, DataError, NotReadyError
from eideticnet.inputs import Inputs
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.program import HEAD, Program
from eideticnet.pruning import Pruning, prune
from eideticnet.reading import Reading, Reads, resolve
from eideticnet.routing import Output, RouteByLabel, answer, task_probabilities
from eideticnet.seeding import seeded
from eideticnet.tracing import as_named, trace
from eideticnet.training import Classify, Event, Lesson, Objective, Training, converge

WhenFull = Literal["refuse", "reuse", "widen"]
"""What to do where a layer has no free neuron left."""
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
    ) -> Task:
        """Learn one more task, whose ``loader`` yields raw (x, y) with y from 0 to C - 1.

        Either the task is added at the end, or an error leaves the network as it was.
        ``pruning=None`` keeps every free neuron. ``probes`` are kept in checkpoints; without
        them random inputs are. Where a layer is full, ``when_full="reuse"`` learns with what
        other layers have free and earlier tasks' neurons, ``"widen"`` makes the layer half as wide
        again. ``reads``: the earlier tasks that this one may build on, by default all.
        ``pretrained``: a trunk whose weights the first task starts from. The router has to be fitted
        again.
        """
        self._check_new(name, classes)
        return self._add(
            Task(name, self._next_owner(), tuple(classes), self._probes(probes)),
            loader,
            pruning,
            training,
            when_full,
            reads,
            pretrained,
            report,
        )

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
    ) -> Task:
        """Learn a task anew on top of everything learned since (backward transfer; paper, section 5).

        The new revision has a block and a head of its own and answers from now on; the old one stays
        as it is, to the last bit, and can be made to answer again by ``answer_with``.
        """
        old = self.learned.revisions(self.task(name).name)[-1]
        probes = old.probes if probes is None else probes
        task = Task(name, self._next_owner(), old.classes, self._probes(probes), old.revision + 1)
        return self._add(task, loader, pruning, training, when_full, reads, None, report)

    def answer_with(self, name: str, revision: int) -> None:
        """Let this revision of a task answer, from now on."""
        self.learned = self.learned.with_answering(self.task(name, revision))

    def widen(self, by: float | Mapping[str, int]) -> None:
        """Add free neurons: ``by`` times as many as the trunk has in each group, or so many in those
        that are named. No task changes."""
        groups = self.program.groups
        added = by if isinstance(by, Mapping) else {g: ceil(n * by) for g, n in groups.items()}
        unknown = sorted(set(added) - set(groups))
        if unknown or any(n < 0 for n in added.values()):
            what = f"no layer {unknown[0]!r}" if unknown else "a layer can't lose neurons"
            raise DataError(f"widen: {what}; layers: {', '.join(groups)}")
        self.program = replace(self.program, groups={g: n + added.get(g, 0) for g, n in groups.items()})

    def _next_owner(self) -> str:
        return f"t{len(self.learned.tasks)}"

    def _probes(self, given: Tensor | None) -> Tensor:
        probes = self._random_probes(self._next_owner()) if given is None else given.detach().cpu().clone()
        self.inputs.check(probes)
        return probes

    def _add(
        self,
        task: Task,
        loader: Loader,
        pruning: Pruning | None,
        training: Training,
        when_full: WhenFull,
        reads: Reads,
        pretrained: nn.Module | None,
        report: Report,
    ) -> Task:
        self.learned.verify()
        reading = resolve(reads, self.learned, self.program)
        lesson = self._lesson(task.label, task.owner, loader, Classify(len(task.classes)), training, report)
        groups = self._groups(task.label, when_full, reading)
        block = self._learn(lesson, task.owner, reading, pruning, groups, pretrained)
        self.learned.verify()
        self.program = replace(self.program, groups=groups)
        self.learned = self.learned.with_task(task, block)
        return task

    def fit_router(
        self,
        loaders: Mapping[str, Loader],
        *,
        pruning: Pruning | None = ROUTER_PRUNING,
        training: Training = Training(),
        when_full: WhenFull = "refuse",
        report: Report = lambda event: None,
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
        lesson = self._lesson(ROUTER, f"{ROUTER}{len(names)}", data, RouteByLabel(counts), training, report)
        reading = resolve(None, self.learned, self.program)
        groups = self._groups(ROUTER, when_full, reading)
        block = self._learn(lesson, ROUTER, reading, pruning, groups)
        self.learned.verify()
        self.program = replace(self.program, groups=groups)
        self.learned = self.learned.with_router(block)

    def _lesson(
        self, name: str, seed: str, loader: Loader, objective: Objective, training: Training, report: Report
    ) -> Lesson:
        return Lesson(
            name, loader, objective, self.inputs, training, (self.seed, seed), self.logits_of, report
        )

    def logits_of(self, block: nn.Module, x: Tensor) -> Tensor:
        """Logits of a block that is being learned, for normalised ``x``; what it reads is frozen."""
        assert isinstance(block, Block)
        with torch.no_grad():
            earlier = self.learned.pieces(x, self.learned.closure(*block.reads))
        out: Tensor = block(x, earlier)[HEAD]
        return out

    def _learn(
        self,
        lesson: Lesson,
        owner: str,
        reading: Reading,
        pruning: Pruning | None,
        groups: Mapping[str, int],
        pretrained: nn.Module | None = None,
    ) -> Block:
        """Train all free neurons to convergence, keep the fewest that will do, let those
        converge once more, and freeze them."""
        widths = self.learned.owned()
        widths[owner] = {**self._free(groups), HEAD: lesson.objective.classes}
        with seeded(*lesson.seed, "initial weights"):
            block = Block(self.program, owner, reading.owners, widths, unread=reading.unread)
        if pretrained is not None:
            self._adopt(block, pretrained)
        block.to(self._anchor)
        converge(lesson, block, "train", lesson.training.patience)
        if pruning is not None:
            block = prune(lesson, block, pruning)
        converge(lesson, block, "settle", lesson.training.settle_patience)
        block.freeze()
        return block

    def _adopt(self, block: Block, trunk: nn.Module) -> None:
        """Start ``block`` from the trunk's weights: it has to be all of it."""
        if block.reads or block.own != self.program.groups:
            raise DataError(
                "pretrained: only the first task, which owns every neuron, can start from a trunk"
            )
        try:
            block.adopt(as_named(trunk))
        except (AttributeError, RuntimeError) as error:
            raise DataError(f"pretrained: not the trunk that the network was made from: {error}") from error

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

    def _free(self, groups: Mapping[str, int]) -> dict[str, int]:
        """Neurons free in each group of these widths, once the router's are thrown back."""
        owned = [w for owner, w in self.learned.owned().items() if owner != ROUTER]
        return {g: n - sum(w[g] for w in owned) for g, n in groups.items()}

    def _groups(self, wanted_by: str, when_full: WhenFull, reading: Reading) -> dict[str, int]:
        """The width of each group while something is learned: a full one may have to be widened."""
        groups = self.program.groups
        full = [g for g, n in self._free(groups).items() if n == 0]
        if full and when_full == "widen":
            return {g: n + ceil(n / 2) * (g in full) for g, n in groups.items()}
        if full and (when_full == "refuse" or not reading.reads_everyone(self.learned)):
            raise CapacityError(
                f"{wanted_by}: no free neuron in {', '.join(full)}; prune harder, call widen, or pass "
                'when_full="widen", or "reuse" to learn with the features there are (of all tasks)'
            )
        return groups

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
