"""The network: learns task after task, never forgets one, and needs no task id to answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, inf
from types import MappingProxyType
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from eideticnet.checkpoint import Parts
from eideticnet.data.memory import choose_examples
from eideticnet.data.pairs import fitting
from eideticnet.data.repeats import check_apart, named
from eideticnet.data.rows import Loader
from eideticnet.decision import FittedRouting, check_choice
from eideticnet.errors import BusyError, DataError
from eideticnet.hub import OnTheHub
from eideticnet.inputs import Inputs
from eideticnet.label_space import LabelSpace, distinct
from eideticnet.learn.journal import Journal
from eideticnet.learn.learning import (
    BlockPlan,
    Room,
    WhenFull,
    free,
    known_when_full,
    logits_over,
    sharers,
    with_room,
)
from eideticnet.learn.pruning import Pruning
from eideticnet.learn.reading import Reads, owners_of
from eideticnet.learn.training import Classify, Event, Job, Objective, Training
from eideticnet.learned import ROUTER, Learned, Task
from eideticnet.moments import Of, check_features, check_of, gather
from eideticnet.names import class_names, expected, plain, same, task_name, whole
from eideticnet.program import Program
from eideticnet.route.experts import joined
from eideticnet.route.options import Routing
from eideticnet.route.router import (
    calibrated,
    doubt_whose,
    kind_of,
    moments_router,
    refuse_twins,
    router_job,
    router_plan,
    validation_job,
)
from eideticnet.seeding import derive
from eideticnet.trace.clips import with_clips
from eideticnet.trace.selfcheck import ROWS
from eideticnet.trace.tracing import trace
from eideticnet.trace.unwrapping import unwrapped
from eideticnet.turns import Turns, able_to_learn, alone

Listener = Callable[[Event], Any]
PROBES = 8
"""How many synthetic ones a task gets."""
MOST_NEURONS = 1 << 24
"""Of a layer that is widened; what is more was hardly meant."""
Before = tuple[Learned, Program, Inputs, int]
"""What a network was when it began to learn something."""


class EideticNetwork(OnTheHub):
    """An ordinary trunk that learns tasks one after another.

    ``trunk`` maps inputs (N, ...) to features (N, F); only its architecture is taken, every
    block starts from fresh weights that ``seed`` decides. ``example_input`` (N, ...) is raw.

    With ``planned_tasks`` a task may own an equal share of the neurons that are free for it and for those
    of the plan that are still to come: what one leaves is for them. A task beyond the plan may own all
    that is free.

    In a ``"shared"`` label space a name that several tasks have is one class, and an answer adds up what they
    say of it; in ``"separate"`` ones two tasks may both have a "yes". A server's clients rely on it, so no
    version replaces one of the other kind; before the first is exported ``answer_in`` changes it.
    """

    def __init__(
        self,
        trunk: nn.Module,
        example_input: Tensor,
        *,
        inputs: Inputs | None = None,
        seed: int = 0,
        planned_tasks: int | None = None,
        label_space: LabelSpace = "separate",
    ) -> None:
        check_choice("label_space", label_space, get_args(LabelSpace))
        planned = None if planned_tasks is None else whole(planned_tasks, "planned_tasks", least=1)
        with able_to_learn():
            self._begin(trunk, example_input, inputs, seed)
        self.planned_tasks = planned
        self.learned = self.learned.with_label_space(label_space)

    def _begin(self, trunk: nn.Module, example_input: Tensor, inputs: Inputs | None, seed: int) -> None:
        super().__init__()
        if not isinstance(trunk, nn.Module):
            what = trunk if isinstance(trunk, type) else type(trunk)
            kind = f"the class {what.__name__} itself" if what is trunk else f"a {what.__name__}"
            raise DataError(f"trunk is {kind}: give a torch.nn.Module, such as nn.Sequential(...)")
        if not isinstance(example_input, Tensor):
            kind = type(example_input).__name__
            raise DataError(
                f"example_input is a {kind}: give a tensor (N, ...), as torch.from_numpy makes it"
            )
        if inputs is not None and not isinstance(inputs, Inputs):
            raise DataError(f"inputs is a {type(inputs).__name__}: give Inputs(shape, low=..., high=...)")
        inputs, seed = inputs or Inputs.like(example_input), whole(seed, "seed")
        inputs.check(example_input)
        unranged = inputs.dtype == "float32" and inputs.low is None and inputs.high is None
        rows = None if unranged else inputs.to_try(ROWS)
        program = with_clips(trace(trunk, inputs.normalise(example_input), rows), inputs)
        self._start(Parts(program, inputs, seed, Learned(), {}))

    @alone
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
        memory: int = 0,
        moments: int = 0,
        moments_of: Of = "input",
        report: Listener = lambda event: None,
        journal: Journal | None = None,
    ) -> Task:
        """Learn one more task, whose ``loader`` yields raw (x, y) with y from 0 to C - 1.

        Either the task is added at the end, or an error leaves the network as it was. The router
        has to be fitted again.

        ``pruning=None`` keeps every free neuron. Where a layer is full, ``when_full="reuse"``
        learns with what other layers have free and earlier tasks' neurons, ``"widen"`` makes the
        layer half as wide again. ``reads``: the earlier tasks that this one may build on, by default
        all. ``pretrained``: a trunk whose weights the first task starts from.

        ``probes`` are kept in checkpoints; without them random inputs are. For routers to come,
        ``memory`` examples are kept with the network, in its checkpoints too, and class sums of
        ``moments`` random features, the same number for all tasks: of the input, of ``"patches"`` of an
        image (as many as whole filters give), or of the features of the ``"first"`` task.

        With a ``journal``, an interrupted call that is made again goes on where it was, and ends
        with the same bits; ``journal.remove()`` once the network is saved.
        """
        name = self._check_new(name)
        task = Task(name, self._next_owner(), self._classes(classes, name), self._probes(probes))
        check_of(moments_of, moments)
        memory, moments = self._check_kept(memory, pruning, when_full, moments, moments_of)
        expected("pretrained", pretrained, nn.Module, type(None))
        job = self._task_job(task, loader, training, report, journal)
        return self._add(task, job, pruning, when_full, reads, pretrained, memory, moments, moments_of)

    @alone
    def revise_task(
        self,
        name: str,
        loader: Loader,
        classes: Sequence[str] | None = None,
        *,
        pruning: Pruning | None = Pruning(),
        training: Training = Training(),
        when_full: WhenFull = "refuse",
        reads: Reads = None,
        probes: Tensor | None = None,
        memory: int = 0,
        moments: int = 0,
        report: Listener = lambda event: None,
        journal: Journal | None = None,
    ) -> Task:
        """Learn a task again on top of everything learned since (backward transfer; paper, section 5).

        The new revision has a block and a head of its own and answers from now on; the old one stays
        as it is, to the last bit, and can be made to answer again by ``answer_with``.

        It may have more ``classes``: those that it has, in their order, then the new ones. Of these no
        ``memory`` and ``moments`` were kept: examples are chosen anew, sums are added.
        """
        of: Of = "input" if self.learned.moments is None else self.learned.moments.of
        memory, moments = self._check_kept(memory, pruning, when_full, moments, of)
        old = self.learned.revisions(self.task(name).name)[-1]
        names = old.classes if classes is None else self._classes(classes, name)
        if names[: len(old.classes)] != old.classes:
            raise DataError(
                f"task {name!r}: classes {list(names)} don't begin with those that it has, "
                f"{list(old.classes)}; add new ones behind these"
            )
        kept = old.memory if names == old.classes else None
        probes = self._probes(old.probes if probes is None else probes)
        task = Task(name, self._next_owner(), names, probes, old.revision + 1, kept)
        job = self._task_job(task, loader, training, report, journal)
        return self._add(task, job, pruning, when_full, reads, None, memory, moments, of)

    def _classes(self, given: Any, task: str) -> tuple[str, ...]:
        """The names of a task's classes, which have to be such as the label space can have beside others."""
        names, learned = class_names(given, task), self.learned
        if learned.label_space == "shared":
            distinct([*((t.label, t.classes) for t in learned.tasks), (task, names)])
        return names

    def _task_job(
        self, task: Task, loader: Loader, training: Training, report: Listener, journal: Journal | None
    ) -> Job:
        expected("training", training, Training)
        objective = Classify(len(task.classes), training.label_smoothing)
        job = self._job(task.label, task.owner, loader, objective, training, report, journal)
        return replace(job, classes=task.classes)

    def _check_kept(
        self, memory: int, pruning: object, when_full: object, moments: int = 0, moments_of: Of = "input"
    ) -> tuple[int, int]:
        """What is to be kept with the network, refused before anything is trained if it can't be."""
        expected("pruning", pruning, Pruning, type(None))
        known_when_full(when_full)
        memory, moments = whole(memory, "memory", least=0), whole(moments, "moments", least=0)
        if moments:
            check_features(self.learned.moments, self.inputs, moments, moments_of)
        if not isinstance(self.metadata, dict):
            raise DataError(f"net.metadata is a {type(self.metadata).__name__}; keep a dict there")
        try:
            json.dumps(self.metadata, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise DataError(
                f"net.metadata can't be saved: {error}; keep plain values of JSON there"
            ) from None
        return memory, moments

    def _add(
        self,
        task: Task,
        job: Job,
        pruning: Pruning | None,
        when_full: WhenFull,
        reads: Reads,
        pretrained: nn.Module | None = None,
        memory: int = 0,
        moments: int = 0,
        moments_of: Of = "input",
    ) -> Task:
        learned, *_ = before = self._now()
        learned.verify()
        job.rows.look(every_class=True)
        reading = owners_of(reads, learned, self.program)
        room = self._room(task.name, pruning)
        program = with_room(room, self.program, task.label, reading, when_full)
        start = None if pretrained is None else unwrapped(pretrained)
        plan = BlockPlan(program, task.owner, reading, free(learned, program), start, room.share(program))
        block = plan.learn(job, learned, pruning, self.device)
        if memory:
            task = replace(task, memory=choose_examples(job.rows, memory, self.seed, task.owner))
        sums = learned.moments
        if moments:
            first = learned.block(learned.tasks[0].owner) if learned.tasks else block
            sums = gather(
                sums, task.name, job.rows, moments, self.seed, task.owner, of=moments_of, first=first
            )
        self._commit(before, program, learned.with_task(task, block, sums))
        return task

    def _room(self, task: str, pruning: Pruning | None) -> Room:
        """What there is for ``task``. Without a plan any free neuron will do."""
        if self.planned_tasks is None:
            return Room(self.learned)
        least = {} if pruning is None else pruning.limits(self.program).least
        return Room(self.learned, sharers(self.learned, task, self.planned_tasks), least)

    def _commit(self, before: Before, program: Program, learned: Learned) -> None:
        """Let what was learned answer from now on: none of it was visible before.

        Between the two assignments the network is what it was with more free neurons, if anything.
        """
        before[0].verify()
        if any(then is not now for then, now in zip(before, self._now(), strict=True)):
            raise BusyError(
                "something replaced a part of the network (learned, program, inputs or seed) while it "
                "learned; it is left as it is now, without what was being learned"
            )
        self.program, self.learned = program, learned

    def _now(self) -> Before:
        return self.learned, self.program, self.inputs, self.seed

    @alone
    def answer_with(self, name: str, revision: int) -> None:
        """Let this revision of a task answer, from now on."""
        self.learned = self.learned.with_answering(self.task(name, revision))

    @alone
    def answer_in(self, label_space: LabelSpace) -> None:
        """Answer in this label space from now on, see the class. The router has to be fitted again."""
        check_choice("label_space", label_space, get_args(LabelSpace))
        if label_space != self.learned.label_space:
            self.learned = self.learned.with_label_space(label_space)

    @alone
    def widen(self, by: float | Mapping[str, int]) -> None:
        """Add free neurons: ``by`` times as many as there are in each group, or the given number in those
        that are named. No task changes."""
        groups, factor = self.program.groups, plain(by)
        if isinstance(by, Mapping):
            unknown = sorted(map(repr, set(by) - set(groups)))
            if unknown:
                raise DataError(f"widen: no layer {unknown[0]}; layers: {', '.join(groups)}")
            added = {group: whole(n, f"widen: {group}", least=0) for group, n in by.items()}
        elif isinstance(factor, (int, float)) and 0 <= factor < inf:
            added = {group: ceil(n * factor) for group, n in groups.items()}
        else:
            raise DataError(f"widen: {by!r} is no factor; use 0.5 for half as many neurons again")
        program = self.program.widened(added)
        if (most := max(program.groups.values())) > MOST_NEURONS:
            raise DataError(f"widen: a layer would have {most} neurons; use up to {MOST_NEURONS}")
        self.program = program

    @alone
    def fit_router(
        self,
        loaders: Mapping[str, Loader] = MappingProxyType({}),
        *,
        routing: Routing = Routing(),
        validation: Mapping[str, Loader] = MappingProxyType({}),
        training: Training = Training(),
        when_full: WhenFull = "refuse",
        report: Listener = lambda event: None,
        journal: Journal | None = None,
    ) -> None:
        """Learn which task an input belongs to, from the tasks' data by name.

        A task without a loader is learned from its memory; routers without training need neither.
        ``validation`` holds raw (x, y) of tasks that nothing was trained on: experts are weighed,
        probabilities and threshold calibrated on them, and where every task has some, a router is pruned
        by its accuracy there. A router with neurons gets a block of its own,
        reads everything and is read by nobody; where it may have none but free neurons and there is
        none, ``when_full`` decides: with ``"reuse"`` it is linear on the features there are.
        """
        if not self.tasks:
            raise DataError("there is no task yet: learn one with train_task, then fit a router")
        expected("routing", routing, Routing)
        expected("training", training, Training)
        known_when_full(when_full)
        data, held_out = self.rows(loaders), self.rows(validation)
        if routing.false_rejections and not validation:
            raise DataError("a threshold for false_rejections needs validation data; pass some")
        before = self._now()
        self.learned.verify()
        kind = kind_of(routing, self.learned, self.inputs, data, held_out)
        refuse_twins(data)
        refuse_twins(held_out)
        for rows in data.values():
            rows.look(every_class=True)
        for rows in held_out.values():
            rows.look()
        if kind != "none":
            under = {name: named(*rows.seen, self.task(name).classes) for name, rows in data.items()}
            check_apart({name: rows.seen[0] for name, rows in data.items()}, under if self.classes else None)
        doubt_whose(self.learned, data, self.device)
        block, program, judge = None, self.program, None
        seed = f"{ROUTER}{len(self.learned.tasks)}"
        if held_out:
            rest = validation_job(self.learned, held_out)
            judge = self._job(ROUTER, seed, *rest, training, report)
        asked = routing.router_pruning
        decides = judge if asked is not None and len(held_out) == len(self.tasks) else None
        if kind in ("moments", "experts"):
            block = moments_router(self.learned, data, self.inputs, self.seed, routing, decides)
            block = block.to(self.device)
        if kind not in ("moments", "none"):
            mixed, objective = router_job(self.learned, data, self.inputs, training.label_smoothing)
            job = self._job(ROUTER, seed, mixed, objective, training, report, journal)
            job = replace(job, held_out=decides)
            plan, pruning = router_plan(self.learned, program, kind, routing, when_full)
            trained = plan.learn(job, self.learned, pruning, self.device)
            if block is not None:
                assert judge is not None, "kind_of refuses experts without validation data"
                trained = joined(trained, block, judge)
            block = trained
            program = replace(program, groups=plan.program.groups)
        learned = self.learned.with_router(block, FittedRouting(kind, routing.decision))
        if validation:
            learned = calibrated(learned, self.inputs, self.device, held_out, routing.false_rejections)
        self._commit(before, program, learned)

    def _start(self, parts: Parts) -> None:
        self.turns = Turns("network")
        super()._start(parts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with self.turns.take("moving or casting it"):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self.turns.take("load_state_dict"):
            super()._load_from_state_dict(*args, **kwargs)

    def _job(
        self,
        name: str,
        seed: str,
        loader: Loader,
        objective: Objective,
        training: Training,
        report: Listener,
        journal: Journal | None = None,
    ) -> Job:
        seeds, logits = (self.seed, seed), logits_over(self.learned, self.inputs)
        expected("journal", journal, Journal, type(None))
        if not callable(report):
            raise DataError(f"report is {report!r:.40}: give a function that takes an Event, or leave it out")
        kept = journal or Journal()

        def told(event: Event) -> None:
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):  # whatever it leaves behind
                report(event)

        return Job(name, loader, objective, self.readable, training, seeds, logits, told, kept)

    def _next_owner(self) -> str:
        return f"t{len(self.learned.tasks)}"

    def _check_new(self, name: str) -> str:
        name = task_name(name)
        known = next((t.name for t in self.tasks if same(t.name, name)), None)
        if known is not None:
            raise DataError(f"there is a task {known!r} already; give the new one another name")
        return name

    def _probes(self, given: Tensor | None) -> Tensor:
        if given is None:
            seed = derive(self.seed, self._next_owner(), "probes")
            given = self.inputs.random(PROBES, torch.Generator().manual_seed(seed))
        elif not len(given):
            raise DataError("probes: give a tensor of one or more finite inputs (K, ...)")
        return fitting(given, self.readable).cpu().clone()
