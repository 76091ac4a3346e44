"""CONFIG.toml: the trunk, the tasks and how they are trained, checked before anything runs."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from eideticnet.errors import ConfigError, EideticError
from eideticnet.files import read_regular
from eideticnet.inputs import Inputs
from eideticnet.label_space import LabelSpace, distinct
from eideticnet.learn.pruning import Pruning
from eideticnet.learn.training import MOST_THREADS, Training
from eideticnet.moments import Of, check_of
from eideticnet.names import class_names, same, task_name
from eideticnet.route.options import Auto, Routing
from eideticnet.runs.problems import validate
from eideticnet.users_code import TARGET, located, nearest, unlocated

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": torch.optim.SGD,
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""A folder and a model that is served can be called so."""
SOURCES = ("data", "test", "augment", "pretrained")
ROUTERS = ("routing", "router_pruning", "router_data")
"""What a router depends on, beside the tasks."""
CHANGEABLE = {"name", "tasks", "planned_tasks", "device", "threads", "when_full", "label_space", *ROUTERS}
"""What may change while a run goes on: no task that is learned depends on it."""


Kind = TypeVar("Kind")


@contextmanager
def _told() -> Iterator[None]:
    """This package's error as one that pydantic names the place of."""
    try:
        yield
    except EideticError as error:
        raise ValueError(str(error)) from None


def _read(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    with _told():
        return read(value)


_Table = Annotated[Kind, WrapValidator(_read)]
"""A dataclass of the method as a table of the file."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        with _told():
            self.check()
        return self

    def check(self) -> None:
        """Raise what using this section would raise."""


class TrunkConfig(_Section):
    """The architecture, of which no weights are used."""

    target: str
    """A `module:callable` that returns an `nn.Module`."""
    arguments: dict[str, Any] = {}
    """What it is called with."""


@dataclass(frozen=True)
class TrainingTable(Training):
    """The optimizer, and when to stop."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # type: ignore[assignment]
    """Its settings that have no key here are torch's."""
    threads: Annotated[int | None, Field(exclude=True)] = field(default=None, init=False)
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The same in every phase, but for `lr_factor` of `[pruning]`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """The optimizer's."""
    momentum: Annotated[float, Field(ge=0)] = 0.0
    """Of `sgd`."""
    batch_size: Annotated[int, Field(ge=1, le=2**31)] = 64
    """Rows of a step."""

    def __post_init__(self) -> None:
        self.build()

    def build(self, threads: int | None = None) -> Training:
        arguments: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            arguments["momentum"] = self.momentum
        optimizer = partial(OPTIMIZERS[self.optimizer], **arguments)
        return Training(**_as(Training, self) | {"optimizer": optimizer, "threads": threads})


@dataclass(frozen=True)
class RoutingTable(Routing):
    """How the task of an input is found."""

    pruning: Annotated[Pruning | Auto | None, Field(exclude=True)] = field(default="auto", init=False)
    pruned: bool = True
    """Whether neurons go that the router does not need."""

    def build(self, pruning: Pruning | None) -> Routing:
        asked = (pruning or "auto") if self.pruned else None
        return Routing(**_as(Routing, self) | {"pruning": asked})


def _as(kind: type[Training | Routing], table: Training | Routing) -> dict[str, Any]:
    """What a ``table`` says of a ``kind``."""
    return {each.name: getattr(table, each.name) for each in fields(kind)}


class TaskConfig(_Section):
    """A task's data is an ``.npz`` or ``.safetensors`` file with ``x`` and ``y``, a folder with a folder of
    images for each class, or a ``module:callable`` that returns ``(x, y)`` or a Dataset; files and
    modules are looked up beside the TOML file first."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: str
    """As answers call it."""
    classes: tuple[str, ...]
    """Names, in the order of their numbers."""
    data: str
    """A file, a folder or a `module:callable`."""
    arguments: dict[str, Any] = {}
    """What the callable is called with."""
    test: str | None = None
    """Held-out data, where it is not to be split off."""
    test_arguments: dict[str, Any] = {}
    """What that callable is called with."""
    augment: str | None = None
    """A `module:callable` that gets the raw inputs (N, *shape) of each training batch and returns as many,
    changed at random by torch's numbers; what is held out stays as it is."""
    augment_arguments: dict[str, Any] = {}
    """What that callable is called with besides."""
    reads: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    """Earlier tasks to build on, or by layer; without, all."""
    pretrained: str | None = None
    """A `module:callable` that returns the trunk with the weights that the first task starts from."""
    pretrained_arguments: dict[str, Any] = {}
    """What that callable is called with."""

    def made_of(self) -> dict[str, Any]:
        """All of it, wherever the code lies."""
        code = {n: v for n in SOURCES if (v := getattr(self, n)) is not None}
        return self.model_dump(mode="json") | {name: unlocated(source) for name, source in code.items()}

    def check(self) -> None:
        class_names(self.classes, task_name(self.name))
        for key, source in (("data", self.data), ("test", self.test)):
            if source is not None and not source.strip():
                raise ConfigError(f"{key} is empty; name a file, a folder or a module:callable")


class Config(_Section):
    """A run: the trunk, the tasks and how they are trained."""

    name: str
    """Of the run's folder, unless `--out` names one; a model is called like the folder."""
    trunk: TrunkConfig
    """The table `[trunk]`."""
    input: _Table[Inputs]
    """The table `[input]`: what every input looks like, for ever."""
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    """One table `[[tasks]]` for each, in the order of learning."""
    seed: int = 0
    """Decides every random number."""
    device: str = "cpu"
    """Torch's name of it."""
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    """Torch's; without, one where layers are small."""
    test: float = Field(0.25, gt=0, lt=1)
    """Share of each task's data that is held out, where it names no test data."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the rest that calibrates the routing and trains nothing."""
    memory: int = Field(0, ge=0)
    """Examples of each task that are kept for routers to come."""
    moments: int = Field(0, ge=0)
    """Random features whose class sums are kept of each task."""
    moments_of: Of = "input"
    """What these features are of: the input, patches of an image, or the first task's layers."""
    router_data: Literal["all", "kept"] = "all"
    """What the router learns from: all tasks' data, or the last one's and what is kept of the others."""
    probes: Literal["real", "synthetic"] = "synthetic"
    """Whether a few real inputs may be kept in checkpoints and archives, or random ones must do."""
    when_full: Literal["refuse", "reuse", "widen"] = "refuse"
    """What becomes of a task when a layer has no free neuron."""
    planned_tasks: int | None = Field(None, ge=1)
    """The number of tasks that share the trunk's neurons equally, and for which pages are laid."""
    label_space: LabelSpace = "separate"
    """Whether each task has its own labels, or a name that tasks share is one class; fixed once exported."""
    training: _Table[TrainingTable] = TrainingTable()
    """The table `[training]`."""
    pruning: _Table[Pruning] = Pruning()
    """The table `[pruning]`."""
    routing: _Table[RoutingTable] = RoutingTable()
    """The table `[routing]`."""
    router_pruning: _Table[Pruning | None] = None
    """The table `[router_pruning]`, with the keys of `[pruning]`; without, the default pruning."""

    def check(self) -> None:
        check_of(self.moments_of, self.moments)
        if self.router_pruning and not self.routing.pruned:
            raise ConfigError(
                "[routing] pruned = false, but [router_pruning] says how; leave one of them out"
            )
        kept = self.memory or self.moments or self.routing.router == "none"
        if self.router_data == "kept" and not kept:
            raise ConfigError('router_data = "kept", but nothing is: set memory or moments at the top')
        if not self.validation and (self.routing.router == "experts" or self.routing.false_rejections):
            wants = "router" if self.routing.router == "experts" else "false_rejections"
            raise ConfigError(f"[routing] {wants} needs validation data: set validation = 0.1 at the top")
        if self.planned_tasks is not None and self.planned_tasks < len(self.tasks):
            raise ConfigError(
                f"planned_tasks = {self.planned_tasks}, for {len(self.tasks)} [[tasks]]; plan as many"
            )
        if self.label_space == "shared":
            distinct((task.name, task.classes) for task in self.tasks)
        known: list[str] = []
        for task in self.tasks:
            if any(same(task.name, name) for name in known):
                raise ConfigError(f"two tasks have the same name, {task.name!r}")
            if known and task.pretrained:
                raise ConfigError(f"[[tasks]] {task.name!r}: only the first task can be pretrained")
            groups = task.reads.values() if isinstance(task.reads, dict) else [task.reads or ()]
            for name in (name for names in groups for name in names if name not in known):
                what = f"[[tasks]] {task.name!r} reads {name!r}, which is no earlier task"
                raise ConfigError(what + (nearest(name, known) or f"; earlier: {', '.join(known) or 'none'}"))
            known.append(task.name)

    def folder(self) -> Path:
        """Where the run lies, if its user does not say."""
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"name = {self.name!r}: use up to 64 letters, digits, _ . and -, or give --out")
        return Path("runs") / self.name

    def made_of(self, tasks: int) -> dict[str, Any]:
        """What the first ``tasks`` learned tasks depend on; the rest may change while a run goes on."""
        made = self.model_dump(exclude=CHANGEABLE, mode="json")
        made["trunk"]["target"] = unlocated(self.trunk.target)
        return {**made, "tasks": [task.made_of() for task in self.tasks[:tasks]]}


class TasksConfig(_Section):
    """A file that only adds tasks to a network that exists."""

    tasks: tuple[TaskConfig, ...] = Field(min_length=1)


def read_config(path: Path) -> Config:
    """The configuration in a TOML file; ``ConfigError`` names file and field."""
    found = read_toml(path)
    if list(found) == ["tasks"]:
        raise ConfigError(f"{path} holds [[tasks]] alone: `add-task RUN {path}` adds them to a run")
    found.pop("experiment", None)  # what `eidetic experiment` reads besides
    return settled(validate(Config, found, path), path)


def settled(config: Config, path: Path) -> Config:
    """``config`` with whole paths for what lies beside the file that it was read from."""
    trunk = config.trunk.model_copy(update={"target": located(config.trunk.target, path.parent)})
    return config.model_copy(update={"trunk": trunk, "tasks": _with_whole_paths(config.tasks, path)})


def read_tasks(path: Path) -> tuple[TaskConfig, ...]:
    """The ``[[tasks]]`` of a TOML file that holds nothing else."""
    found = read_toml(path)
    if "trunk" in found:
        raise ConfigError(f"{path} is a whole configuration, which `train` takes; a run gets [[tasks]] alone")
    return _with_whole_paths(validate(TasksConfig, found, path).tasks, path)


def _with_whole_paths(tasks: tuple[TaskConfig, ...], file: Path) -> tuple[TaskConfig, ...]:
    """Data files and code are looked up beside the file that names them, wherever a run is continued."""

    def whole(source: str | None) -> str | None:
        if source is None or TARGET.fullmatch(source):
            return source and located(source, file.parent)
        # Without an error: a loop of links, or a user that is not there, is told by who reads it.
        return os.path.realpath(file.parent / os.path.expanduser(source))  # noqa: PTH111

    return tuple(
        t.model_copy(
            update={
                "data": whole(t.data),
                "test": whole(t.test),
                "augment": t.augment and located(t.augment, file.parent),
                "pretrained": t.pretrained and located(t.pretrained, file.parent),
            }
        )
        for t in tasks
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file; ``ConfigError`` if it is none, or empty."""
    try:
        found = tomllib.loads(read_regular(path).decode("utf-8-sig"))
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")])
        raise ConfigError(f"there is no file {path}{near}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no TOML file: it holds bytes that are no UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        text = str(error).replace("Cannot overwrite a value", "a key or a table stands there twice")
        text = text.replace("Invalid value", "no value, or text without quotes")
        raise ConfigError(f"can't read {path}: {text}") from error
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except (RecursionError, ValueError) as error:  # of thousands of brackets or digits
        raise ConfigError(f"can't read {path}: {error}") from error
    if not found:
        raise ConfigError(f"{path} is empty; the tutorial (docs/tutorial.md) has one to begin with")
    return found
