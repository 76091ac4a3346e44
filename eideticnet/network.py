"""The network: learns task after task, never forgets one, and needs no task id to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eideticnet import checkpoint
from eideticnet.block import Block
from eideticnet.data import Loader
from eideticnet.errors import CapacityError, DataError, NotReadyError
from eideticnet.inputs import Inputs
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.memory import choose
from eideticnet.moments import gather
from eideticnet.program import HEAD, Program
from eideticnet.pruning import Pruning, prune
from eideticnet.router import calibrated, moments_router, router_lesson
from eideticnet.routing import FittedRouting, Output, Routing, answer, decide
from eideticnet.rules import with_taps
from eideticnet.seeding import seeded
from eideticnet.tracing import trace
from eideticnet.training import Classify, Event, Lesson, Objective, Training, converge

WhenFull = Literal["refuse", "reuse"]
Report = Callable[[Event], Any]


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
        return self.learned.tasks

    def forward(self, x: Tensor, task: Tensor | None = None, threshold: Tensor | None = None) -> Output:
        """Answer raw inputs ``x`` (N, *shape) in one pass of the trunk.

        ``task`` (N,) int64 pins rows to a task index, -1 (the default) lets the network choose;
        ``threshold`` (N,) float32 turns a less confident routing into "none of mine", by default
        the calibrated one where ``fit_router`` was asked for one; 0 always answers.
        """
        fitted = self.learned.routing
        if fitted is None:
            raise NotReadyError(
                "no router knows the present tasks: call fit_router, or pin the task with "
                "net.task_logits(x, name)"
            )
        rows = x.shape[0]
        task = torch.full((rows,), -1, device=x.device) if task is None else task
        if threshold is None:
            threshold = torch.full((rows,), fitted.threshold, device=x.device)
        heads, router = self.learned.votes(self.inputs.normalise(x))
        return answer(heads, decide(fitted, heads, router), task, threshold)

    def task_logits(self, x: Tensor, name: str) -> Tensor:
        """Logits (N, C) of one task for raw ``x``, running only what the task reads."""
        task = self.task(name)
        pieces = self.learned.pieces(self.inputs.normalise(x), self.learned.closure(task.owner))
        return pieces[task.owner][HEAD]

    def task(self, name: str) -> Task:
        """The task called ``name``; ``DataError`` that lists the known ones if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise DataError(f"no task {name!r}; known: {', '.join(repr(t.name) for t in self.tasks) or 'none'}")

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
        probes: Tensor | None = None,
        memory: int = 0,
        moments: int = 0,
        report: Report = lambda event: None,
    ) -> Task:
        """Learn one more task, whose ``loader`` yields raw (x, y) with y from 0 to C - 1.

        Either the task is added at the end, or an error leaves the network as it was.
        ``pruning=None`` keeps every free neuron. ``probes`` are kept in checkpoints; without
        them random inputs are. Where a layer is full, ``when_full="reuse"`` learns with what
        other layers have free and earlier tasks' neurons. The router has to be fitted again.
        For routers to come, ``memory`` examples are kept with the network, in its checkpoints too,
        and class sums of ``moments`` random features, the same number for all tasks.
        """
        self._check_new(name, classes)
        if memory < 0 or moments < 0:
            raise DataError(f"memory={memory}, moments={moments}: use 0 to keep nothing, or a count")
        self.learned.verify()
        owner = f"t{len(self.tasks)}"
        reads = tuple(t.owner for t in self.tasks)
        objective = Classify(len(classes), training.label_smoothing)
        lesson = self._lesson(name, owner, loader, objective, training, report)
        probes = self._random_probes(owner) if probes is None else probes.detach().cpu().clone()
        self.inputs.check(probes)
        block = self._learn(lesson, owner, reads, pruning, self._free(name, when_full))
        kept = choose(loader, memory, len(classes), self.seed, owner) if memory else None
        task = Task(name, owner, tuple(classes), probes, kept)
        sums = self.learned.moments
        if moments:
            sums = gather(sums, name, loader, len(classes), self.inputs, moments, self.seed, owner)
        self.learned.verify()
        self.learned = self.learned.with_task(task, block, sums)
        return task

    def fit_router(
        self,
        loaders: Mapping[str, Loader] = MappingProxyType({}),
        *,
        routing: Routing = Routing(),
        validation: Mapping[str, Loader] = MappingProxyType({}),
        training: Training = Training(),
        when_full: WhenFull = "refuse",
        report: Report = lambda event: None,
    ) -> None:
        """Learn which task an input belongs to, from the tasks' data by name.

        A task without a loader is learned from its memory; routers without training need neither.
        ``validation`` holds raw (x, y) of tasks that nothing was trained on: probabilities and
        threshold are calibrated on them. A router with neurons gets a block of the free ones,
        reads everything and is read by nobody; with ``when_full="reuse"`` and no free neuron it
        is linear on the features there are.
        """
        for name in (*loaders, *validation):
            self.task(name)
        if not self.tasks:
            raise DataError("there is no task yet: learn one with train_task, then fit a router")
        if routing.false_rejections and not validation:
            raise DataError("a threshold for false_rejections needs validation data; pass some")
        self.learned.verify()
        if routing.router == "none":
            block = None
        elif routing.router == "moments":
            block = moments_router(self.learned, self.inputs).to(self._anchor)
        else:
            data, objective = router_lesson(self.tasks, loaders, training.label_smoothing)
            seed = f"{ROUTER}{len(self.tasks)}"
            lesson = self._lesson(ROUTER, seed, data, objective, training, report)
            block = self._router_block(lesson, routing, when_full)
        learned = self.learned.with_router(block, FittedRouting(routing.router, routing.decision))
        if validation:
            learned = calibrated(learned, self.inputs, self.device, validation, routing.false_rejections)
        self.learned.verify()
        self.learned = learned

    def _router_block(self, lesson: Lesson, routing: Routing, when_full: WhenFull) -> Block:
        reads = tuple(t.owner for t in self.tasks)
        if routing.router == "linear":
            return self._learn(lesson, ROUTER, reads, None, dict.fromkeys(self.program.groups, 0))
        program = with_taps(self.program) if routing.router == "taps" else self.program
        return self._learn(lesson, ROUTER, reads, routing.pruning, self._free(ROUTER, when_full), program)

    def _lesson(
        self, name: str, seed: str, loader: Loader, objective: Objective, training: Training, report: Report
    ) -> Lesson:
        frozen = self.learned

        def logits(block: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(block, Block)
            with torch.no_grad():
                earlier = frozen.pieces(x, block.reads)
            out: Tensor = block(x, earlier)[HEAD]
            return out

        return Lesson(name, loader, objective, self.inputs, training, (self.seed, seed), logits, report)

    def _learn(
        self,
        lesson: Lesson,
        owner: str,
        reads: tuple[str, ...],
        pruning: Pruning | None,
        own: Mapping[str, int],
        program: Program | None = None,
    ) -> Block:
        """Train all free neurons to convergence, keep the fewest that will do, let those
        converge once more, and freeze them."""
        widths = self.learned.owned()
        widths[owner] = {**own, HEAD: lesson.objective.classes}
        with seeded(*lesson.seed, "initial weights"):
            block = Block(program or self.program, owner, reads, widths).to(self._anchor)
        converge(lesson, block, "train", lesson.training.patience)
        if pruning is not None:
            block = prune(lesson, block, pruning)
        converge(lesson, block, "settle", lesson.training.settle_patience)
        block.freeze()
        return block

    def _check_new(self, name: str, classes: Sequence[str]) -> None:
        if name in [t.name for t in self.tasks]:
            raise DataError(f"there is a task {name!r} already; give the new one another name")
        if not name or name in (ROUTER, "total", "free"):
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
        names = {t.owner: t.name for t in self.tasks}
        for group, total in self.program.groups.items():
            mine = {names.get(o, o): widths.get(group, 0) for o, widths in owned.items()}
            table[group] = {"total": total, **mine, "free": total - sum(mine.values())}
        return table

    def _free(self, wanted_by: str, when_full: WhenFull) -> dict[str, int]:
        """Neurons free in each group once the router's are thrown back."""
        owned = [w for owner, w in self.learned.owned().items() if owner != ROUTER]
        free = {g: n - sum(w[g] for w in owned) for g, n in self.program.groups.items()}
        full = [g for g, n in free.items() if n == 0]
        if full and when_full == "refuse":
            raise CapacityError(
                f"{wanted_by}: no free neuron in {', '.join(full)}; prune harder, start from a wider "
                'trunk, or pass when_full="reuse" to learn with the features there are'
            )
        return free

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
