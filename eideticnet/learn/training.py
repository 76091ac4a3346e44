"""Training one module for one training job: epochs, accuracy, convergence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from math import cos, pi
from secrets import token_hex
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from eideticnet.data.rows import Loader, Rows
from eideticnet.errors import ConfigError, DataError, DivergedError
from eideticnet.inputs import Inputs
from eideticnet.learn.convergence import Course
from eideticnet.learn.described import described
from eideticnet.learn.journal import Journal
from eideticnet.learn.states import Kept, has_hooks
from eideticnet.names import plain
from eideticnet.seeding import TRACING, seeded
from eideticnet.users_code import blame

FACTORY = "use optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
MEASURED = 2**16
"""This many rows tell the accuracy to within 0.002, and nearer where two of them are compared. To measure it
on all rows takes a third of an epoch."""
LAST_PHASE = "settle"
"""After which a block is frozen."""
BUDGET = "budget"
"""What is told after it of a block that was pruned to a budget: accuracy, and what it may own at most."""
MOST_THREADS = 1024
LrSchedule = Literal["constant", "cosine"]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Adam with learning rate 1e-3."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


@dataclass(frozen=True)
class Training:
    """How weights are trained, and until when.

    The training accuracy is the share that is right, in evaluation mode, of all rows or, where there are more
    than 65,536, of at least half of that, always the same ones."""

    optimizer: OptimizerFactory = adam
    """Called with the parameters again whenever their shapes change."""
    patience: int = 5
    """Epochs in a row without a better training accuracy that end a phase."""
    settle_patience: int = 20
    """The same for what pruning left: its accuracy is high by then, its margins are not."""
    max_epochs: int = 200
    """Of a phase, whatever its accuracy does."""
    label_smoothing: float = 0.0
    """Share of a target's probability that is spread over all classes, in the cross-entropy."""
    lr_schedule: LrSchedule = "constant"
    """With `cosine` the learning rate falls towards 0 within `max_epochs`, in each phase but pruning."""
    threads: int | None = None
    """Torch's meanwhile; without, one where the layers are small, else as many as torch has."""

    def __post_init__(self) -> None:
        if not callable(self.optimizer):
            raise ConfigError(
                f"optimizer is {_briefly(self.optimizer)}, not a function that makes one for the parameters "
                f"of each block: {FACTORY}"
            )
        if self.lr_schedule not in get_args(LrSchedule):
            raise ConfigError(f"lr_schedule {self.lr_schedule!r}: use {', '.join(get_args(LrSchedule))}")
        share, threads = plain(self.label_smoothing), plain(self.threads)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(f"label_smoothing {share!r}: use a share from 0 to below 1")
        if threads is not None and not (type(threads) is int and 1 <= threads <= MOST_THREADS):
            raise ConfigError(f"threads {threads!r}: use 1 to {MOST_THREADS}, or None for what suits")
        for name in ("patience", "settle_patience", "max_epochs"):
            epochs = plain(getattr(self, name))
            if isinstance(epochs, bool) or not hasattr(epochs, "__index__") or epochs < 1:
                raise ConfigError(f"{name} is {epochs!r}: use a whole number of epochs from 1")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch of a phase, in terms of the optimizer's."""
        return 1.0 if self.lr_schedule == "constant" else (1 + cos(pi * epoch / self.max_epochs)) / 2

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """A new optimizer of these; ``ConfigError`` if it is no optimizer, or one of other parameters."""
        parameters = list(parameters)
        with _blamed():
            optimizer = self.optimizer(parameters)
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"optimizer made {_briefly(optimizer)}, which is no optimizer: {FACTORY}")
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not known.intersection(map(id, parameters)):
            raise ConfigError(f"optimizer made one for other parameters than it was given: {FACTORY}")
        return optimizer


@dataclass(frozen=True)
class Event:
    """What a progress display is told after each epoch. ``doubt`` comes with the last one, if more
    training would be better."""

    task: str
    phase: str
    epoch: int
    loss: float
    accuracy: float
    neurons: dict[str, int] = field(default_factory=dict)
    doubt: str = ""


class Objective(Protocol):
    """What is minimised and what counts as correct; ``logits`` (N, C), ``y`` (N,)."""

    @property
    def classes(self) -> int: ...

    def loss(self, logits: Tensor, y: Tensor) -> Tensor: ...

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        """Which answers are right, bool (N,)."""
        ...


@dataclass(frozen=True)
class Classify:
    """Cross-entropy over one task's classes."""

    classes: int
    label_smoothing: float = 0.0

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits.argmax(1) == y


@dataclass(frozen=True)
class Job:
    """What a module is to learn, and from what. ``logits(module, x)`` (N, C) takes normalised x; errors name
    ``classes``, by default their numbers. ``held_out`` is what its accuracy is measured on, by default the
    data that it learns."""

    task: str
    loader: Loader
    objective: Objective
    inputs: Inputs
    training: Training
    seed: tuple[object, ...]
    logits: Callable[[nn.Module, Tensor], Tensor]
    report: Callable[[Event], Any] = lambda event: None
    journal: Journal = field(default_factory=Journal)
    classes: Sequence[object] = ()
    held_out: Job | None = None

    @cached_property
    def rows(self) -> Rows:
        """What the loader gives, looked at once."""
        return Rows(self.task, self.loader, self.classes or range(self.objective.classes), self.inputs)

    def key(self, module: nn.Module) -> list[str]:
        """What the course of the job depends on when ``module`` learns, as far as it can be told apart."""
        optimizer = self.training.optimizer_of(module.parameters())
        groups = [{**g, "params": [p.shape for p in g["params"]]} for g in optimizer.param_groups]
        training = replace(self.training, threads=None)  # a journal keeps the number that it began with
        own = [(k, v) for k, v in vars(optimizer).items() if isinstance(v, bool | int | float | str)]
        makes, kind = self.training.optimizer, type(optimizer)
        parts = (self.task, self.seed, self.inputs, training, makes, kind, groups, own)
        data = self.rows.fingerprint
        if data is None:
            self.journal.say(
                f"task {self.task!r}: what its loader gives depends on how often it was read, so a job "
                "that is interrupted begins again from its start; let it draw from generators alone"
            )
            data = token_hex()  # no other job's
        measured_on = [] if self.held_out is None else [self.held_out.rows.fingerprint or token_hex()]
        told = (*parts, type(self.objective), vars(self.objective), data, *measured_on)
        return [described(part) for part in told]

    @cached_property
    def sparse(self) -> int:
        """Every how many batches one is enough to measure accuracy on."""
        return -(-self.rows.count // MEASURED)

    def batches(
        self, device: torch.device, *names: object, every: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Checked and normalised batches in the order that ``names`` decide, all or one in ``every``."""
        for x, y in islice(self.rows.batches(*self.seed, *names), 0, None, every):
            yield self.inputs.normalise(x.to(device)), y.to(device)


@contextmanager
def _blamed() -> Iterator[None]:
    """What an optimizer that does not fit raises, as a ``ConfigError``; other errors stay as they are."""
    try:
        yield
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(f"the optimizer failed: {blame(error)}; {FACTORY}") from error


def _briefly(value: object) -> str:
    """A value in an error: all of it if it is short, else its type."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"an object of class {type(value).__name__}"


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors are."""
    tensor: Tensor = next(iter(module.state_dict().values()))
    return tensor.device


def train_epoch(job: Job, module: nn.Module, optimizer: Optimizer, *names: object) -> float:
    """One pass with gradient steps; the mean loss. Raises ``DivergedError`` on NaN or infinity."""
    module.train()
    total, count, numbers = 0.0, 0, seeded(*job.seed, *names, "layers")
    is_plain = type(optimizer).__module__.startswith("torch.optim.") and not has_hooks(optimizer)
    for x, y in job.batches(device_of(module), *names):
        if len(y) == 1 and not _learns_from(job, module, x):
            continue
        optimizer.zero_grad(set_to_none=True)
        # A module that drew nothing for the first batch never does; what stands between costs time.
        with numbers if numbers.used or not count else nullcontext():
            logits = job.logits(module, x)
        loss = job.objective.loss(logits, y)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"task {job.task!r}: the loss became {loss.item()}; nothing was kept of it. "
                "Lower the learning rate, or look for NaN in the data"
            )
        loss.backward()
        with TRACING, nullcontext() if is_plain else numbers, _blamed():
            optimizer.step()
        total, count = total + loss.item() * len(y), count + len(y)
    if not count:
        raise DataError(f"task {job.task!r}: a BatchNorm needs batches of two rows or more")
    return total / count


@torch.no_grad()
def _learns_from(job: Job, module: nn.Module, x: Tensor) -> bool:
    """Whether the one row ``x`` has several values of each channel for every batch norm: of one
    value there is no variance. Such a row may be left over at the end of an epoch; the order is
    another in each, so no row is left out for good."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    enough: list[bool] = []
    hooks = [
        m.register_forward_pre_hook(lambda _, args: enough.append(args[0].numel() > args[0].shape[1]))
        for m in norms
    ]
    module.eval()
    try:
        if norms:
            job.logits(module, x)
    finally:
        module.train()
        for hook in hooks:
            hook.remove()
    return all(enough)


@torch.no_grad()
def accuracy(job: Job, module: nn.Module) -> float:
    """Share of correct answers over the data that the job is measured on, in evaluation mode: over all of
    it, or over batches that are evenly spread in a pass which is always the same one."""
    module.eval()
    right, count, on = 0, 0, job.held_out or job
    for x, y in on.batches(device_of(module), "accuracy", every=on.sparse):
        right += int(job.objective.correct(job.logits(module, x), y).sum())
        count += len(y)
    return right / count


def measured(job: Job, module: nn.Module) -> float:
    """The module's accuracy, from the journal if that knows it."""
    return job.journal.value(partial(accuracy, job, module))


def converge(job: Job, module: nn.Module, phase: str, patience: int) -> Course:
    """Train ``module`` in place until its accuracy stays flat for ``patience`` epochs.

    The weights kept are the last ones that reached the best accuracy.
    """
    journal, best, flat = job.journal, measured(job, module), 0
    best_state, most = Kept(module), job.training.max_epochs
    losses: list[float] = []
    where = "training" if job.held_out is None else "validation"
    with journal.tracking(module=module, best=best_state):
        journal.phase(phase)
        optimizer = job.training.optimizer_of(module.parameters())
        with journal.tracking(optimizer=optimizer):
            while flat < patience and len(losses) < most:
                epoch = len(losses)
                with _slowed(optimizer, job.training.rate(epoch)):
                    losses.append(journal.epoch(partial(train_epoch, job, module, optimizer, phase, epoch)))
                reached = measured(job, module)
                flat = 0 if reached > best else flat + 1
                if reached >= best:
                    best = reached
                    best_state.keep(module)
                annealed = job.training.lr_schedule != "constant" and len(losses) == most
                course = Course(best, losses, flat, job.objective.classes, patience, most, where, annealed)
                doubt = course.doubt if phase == LAST_PHASE and course.ended else ""
                job.report(Event(job.task, phase, epoch, losses[-1], reached, doubt=doubt))
    module.load_state_dict(best_state.state_dict())
    return course


def recover(
    job: Job, module: nn.Module, phase: str, target: float, epochs: int, lr_factor: float = 1.0
) -> float:
    """Train ``module`` in place for up to ``epochs`` until it reaches ``target``, at ``lr_factor``
    times the optimizer's learning rates; the accuracy that it ends with, which is below
    ``target`` if it did not."""
    journal, reached = job.journal, measured(job, module)
    with journal.tracking(module=module):
        journal.phase(phase)
        optimizer = job.training.optimizer_of(module.parameters())
        with journal.tracking(optimizer=optimizer), _slowed(optimizer, lr_factor):
            for epoch in range(epochs):
                if reached >= target:
                    break
                loss = journal.epoch(partial(train_epoch, job, module, optimizer, phase, epoch))
                reached = measured(job, module)
                job.report(Event(job.task, "recover", epoch, loss, reached))
    return reached


@contextmanager
def _slowed(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Scale the learning rates, and put them back: the user may go on with the same optimizer."""
    if factor == 1.0:  # who changes rates from hooks of his own is not disturbed
        yield
        return
    before = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = rate
