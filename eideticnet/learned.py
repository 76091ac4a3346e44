"""What a network has learned so far: tasks, their frozen blocks, and the router's block.

A value of this kind is never changed. Learning something makes a new one that shares the frozen
blocks, and the network commits it by one assignment.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from eideticnet.block import Block, Pieces, together
from eideticnet.data.memory import Examples
from eideticnet.decision import FittedRouting
from eideticnet.errors import DamagedError
from eideticnet.hashing import json_hash
from eideticnet.inputs import Inputs
from eideticnet.label_space import Labels, LabelSpace, distinct
from eideticnet.moments import Moments
from eideticnet.program import HEAD, Program
from eideticnet.slots import Page

ROUTER = "router"
_PARTS = ("tasks", "answering", "routing", "moments", "pages", "label_space")


@dataclass(frozen=True)
class Task:
    """A head and the closure of what it reads. ``owner`` is the stable id of its block;
    ``probes`` (K, *shape) are raw inputs on which versions of the network are compared; ``memory``
    are the examples that may be kept for routers to come.

    A task that was learned again has several ``revision``s, each with a block and a head of its own.
    """

    name: str
    owner: str
    classes: tuple[str, ...]
    probes: Tensor = field(repr=False)
    revision: int = 0
    memory: Examples | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The name, and the revision unless it is the first."""
        return self.label_of(self.name, self.revision)

    @staticmethod
    def label_of(name: str, revision: int) -> str:
        """What this revision of the task ``name`` is called."""
        return f"{name} (revision {revision})" if revision else name


class Learned(nn.Module):
    """Tasks in the order of learning, with one frozen block for each owner.

    ``answering`` says which revision of a task answers, by its name; the last one where it is silent.
    ``routing`` is None until a rule for just these tasks was fitted; ``moments`` are those kept for
    routers to come. ``pages``: where the first tasks lie, as far as that was settled. ``label_space``:
    whether a name that several tasks share is one class; then two that read alike are a ``DataError``.
    """

    def __init__(
        self,
        tasks: Iterable[Task] = (),
        blocks: Iterable[Block] = (),
        answering: Mapping[str, int] | None = None,
        routing: FittedRouting | None = None,
        moments: Moments | None = None,
        pages: Sequence[Page] = (),
        label_space: LabelSpace = "separate",
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.answering = dict(answering or {})
        self.label_space = label_space
        shared = self.tasks if label_space == "shared" else ()
        self.classes = distinct((task.name, task.classes) for task in shared)
        self.routing = routing
        self.moments = moments
        self.pages = tuple(pages)
        self.blocks = nn.ModuleDict({block.owner: block for block in blocks})

    def block(self, owner: str) -> Block:
        block = self.blocks[owner]
        assert isinstance(block, Block)
        return block

    def router(self) -> Block | None:
        return self.block(ROUTER) if ROUTER in self.blocks else None

    def with_task(self, task: Task, block: Block, moments: Moments | None = None) -> Learned:
        """One task more; the router, which knew nothing of it, goes back to the free pool."""
        answering = {name: r for name, r in self.answering.items() if name != task.name}
        blocks, moments = (*self._task_blocks(), block), moments or self.moments
        return self._with(
            tasks=(*self.tasks, task), blocks=blocks, answering=answering, routing=None, moments=moments
        )

    def with_router(self, block: Block | None, routing: FittedRouting | None) -> Learned:
        """The same tasks with this router; ``block`` is None for a rule that needs none, both are where
        none is fitted."""
        blocks = self._task_blocks() if block is None else [*self._task_blocks(), block]
        return self._with(blocks=blocks, routing=routing)

    def with_routing(self, routing: FittedRouting) -> Learned:
        """The same tasks and router with another rule."""
        return self.with_router(self.router(), routing)

    def with_answering(self, task: Task) -> Learned:
        """The same, with this revision answering for its task; the router stays where the classes are the
        same."""
        learned = self._with(answering={**self.answering, task.name: task.revision})
        now = next(each for each in self.current() if each.name == task.name)
        return learned if now.classes == task.classes else learned.with_router(None, None)

    def with_pages(self, pages: Sequence[Page]) -> Learned:
        """The same, with the tasks in these pages."""
        return self._with(pages=pages)

    def with_label_space(self, label_space: LabelSpace) -> Learned:
        """The same tasks, without a router for now, answering in this label space."""
        return self.with_router(None, None)._with(label_space=label_space)

    def _with(self, **changes: Any) -> Learned:
        same = {"blocks": [self.block(owner) for owner in self.blocks]}
        same |= {key: getattr(self, key) for key in _PARTS}
        return Learned(**{**same, **changes})

    @property
    def labels(self) -> Labels | None:
        """The label space that tasks share, if they do."""
        if self.label_space == "separate":
            return None
        return Labels.of(self.classes, (task.classes for task in self.current()))

    def revisions(self, name: str) -> tuple[Task, ...]:
        """All revisions of a task, the first one first."""
        return tuple(t for t in self.tasks if t.name == name)

    def current(self) -> tuple[Task, ...]:
        """The revision of each task that answers, in the order in which they were first learned."""
        names = dict.fromkeys(t.name for t in self.tasks)
        return tuple(self.revisions(n)[self.answering.get(n, -1)] for n in names)

    def _task_blocks(self) -> list[Block]:
        return [self.block(task.owner) for task in self.tasks]

    def closure(self, *owners: str) -> tuple[str, ...]:
        """``owners`` and everyone that they read, directly or not, in the order of learning."""
        needed, waiting = set[str](), list(owners)
        while waiting:
            current = waiting.pop()
            if current not in needed:
                needed.add(current)
                waiting.extend(self.block(current).reads)
        return tuple(o for o in self.blocks if o in needed)

    def pieces(self, x: Tensor, owners: Iterable[str], keep: Container[str] = (HEAD,)) -> dict[str, Pieces]:
        """The pieces of the values in ``keep`` of ``owners``, in order and closed under what they read; x
        normalised."""
        return together([self.block(owner) for owner in owners], x, keep)

    def votes(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """What a rule decides by: the logits (N, C_t) of every head, and the router's (N, sum of
        C_t) if there is one; x normalised."""
        pieces = self.pieces(x, self.blocks)
        router = pieces[ROUTER][HEAD] if ROUTER in pieces else None
        return [pieces[task.owner][HEAD] for task in self.current()], router

    def owned(self) -> dict[str, dict[str, int]]:
        """Neurons of each owner by feature group."""
        return {owner: self.block(owner).own for owner in self.blocks}

    def digest(self, task: Task, contract: Mapping[str, Any]) -> str:
        """SHA-256 over everything that the task's logits depend on: the input contract and, for
        each block in its closure, the tensors, the wiring and what it reads."""
        parts = [self._identity(o) for o in self.closure(task.owner)]
        return json_hash({"classes": list(task.classes), "contract": contract, "blocks": parts})

    def _identity(self, owner: str) -> dict[str, Any]:
        """What a block's answers depend on, beside the blocks that it reads."""
        block = self.block(owner)
        return {
            "owner": owner,
            "reads": list(block.reads),
            "unread": block.unread,
            "widths": block.widths,
            "steps": block.program.steps_json,
            "tensors": block.fingerprint,
        }

    def digests(self, inputs: Inputs, program: Program) -> dict[str, str]:
        """The digest of each task and revision by its label, for this input contract and program."""
        contract = {"inputs": inputs.to_json(), "steps": program.steps_json}
        return {task.label: self.digest(task, contract) for task in self.tasks}

    def routing_digest(self) -> str:
        """SHA-256 over all that decides which task answers, beside the heads: rule and router."""
        router = None if self.router() is None else self._identity(ROUTER)
        rule = None if self.routing is None else self.routing.to_json()
        tasks = [[task.name, task.revision, task.owner] for task in self.current()]
        return json_hash({"rule": rule, "router": router, "tasks": tasks})

    def verify(self) -> None:
        """Raise ``DamagedError``, naming task and layer, if a frozen tensor is not what it was."""
        names = {task.owner: f"task {task.label!r}" for task in self.tasks}
        for owner in self.blocks:
            block, now = self.block(owner), self.block(owner).hashes()
            frozen = block.fingerprint or {}
            changed = sorted(k for k in {*now, *frozen} if now.get(k) != frozen.get(k))
            if changed or any(True for _ in block.parameters()):
                layer = (changed or ["?"])[0].rpartition(".")[0].replace("__", ".")
                raise DamagedError(
                    f"{names.get(owner, 'the router')}, layer {layer!r}: its weights are not those "
                    "that were frozen (something wrote to them, or cast them in place); load the "
                    "network from its last checkpoint"
                )
