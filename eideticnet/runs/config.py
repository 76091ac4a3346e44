"""CONFIG.toml: the trunk, the tasks and how they are trained, checked before anything runs."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from eideticnet.decision import Decision, RouterKind
from eideticnet.errors import ConfigError, EideticError
from eideticnet.files import open_regular
from eideticnet.inputs import Inputs
from eideticnet.learn.pruning import Pruning
from eideticnet.learn.schedules import Schedule
from eideticnet.learn.scores import Score
from eideticnet.learn.training import MOST_THREADS, Training
from eideticnet.names import class_names, same, task_name
from eideticnet.route.options import Auto, Routing, Width
from eideticnet.runs.problems import validate
from eideticnet.users_code import TARGET, located, nearest, unlocated

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": torch.optim.SGD,
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""A folder and a model that is served can be called so."""
SOURCES = ("data", "test", "pretrained")
CHANGEABLE = {
    "name",
    "tasks",
    "planned_tasks",
    "device",
    "threads",
    "when_full",
    "routing",
    "router_pruning",
}
"""What may change while a run goes on: no task that is learned depends on it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        try:
            self.check()
        except EideticError as error:
            raise ValueError(str(error)) from None  # which pydantic names the place of
        return self

    def check(self) -> None:
        """Raise what using this section would raise."""


class TrunkConfig(_Section):
    """The architecture, of which no weights are used."""

    target: str
    """A `module:callable` that returns an `nn.Module`."""
    arguments: dict[str, Any] = {}
    """What it is called with."""


class ImageConfig(_Section):
    """How a PNG or JPEG file becomes an input, as in ``ImageInput``."""

    size: tuple[int, int]
    """Height and width of the input."""
    mode: Literal["RGB", "L"] = "RGB"
    """Colours, or shades of grey."""
    resize: Literal["bilinear", "none"] = "bilinear"
    """How a picture of another size gets there; `none` refuses it."""
    layout: Literal["CHW", "flat"] = "CHW"
    """Channels first, or one long vector."""
    scale: float = Field(255.0, gt=0)
    """What a byte is divided by."""


class InputConfig(_Section):
    """The input contract, as in ``Inputs``."""

    shape: tuple[int, ...]
    """Of one input."""
    dtype: Literal["float32", "int64"] = "float32"
    """`int64` for tokens."""
    low: float | None = None
    """The least number that an input may hold; requests below are refused."""
    high: float | None = None
    """The greatest."""
    mean: tuple[float, ...] = ()
    """Subtracted from each input: one number, or one for each channel or feature."""
    std: tuple[float, ...] = ()
    """What it is divided by then, likewise."""
    image: ImageConfig | None = None
    """Inputs are pictures: the table `[input.image]`."""

    def check(self) -> None:
        self.build()

    def build(self) -> Inputs:
        return Inputs.from_json(self.model_dump(exclude_none=True))


class TrainingConfig(_Section):
    """The optimizer and when to stop, as in ``Training``."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Whose other settings are torch's."""
    learning_rate: float = Field(1e-3, gt=0)
    """The same in every phase, but for `lr_factor` of `[pruning]`."""
    weight_decay: float = Field(0.0, ge=0)
    """The optimizer's."""
    momentum: float = Field(0.0, ge=0)
    """Of `sgd`."""
    batch_size: int = Field(64, ge=1, le=2**31)
    """Rows of a step."""
    patience: int = Field(5, ge=1)
    """Epochs in a row without a better training accuracy that end a phase."""
    settle_patience: int = Field(20, ge=1)
    """The same for what pruning left."""
    max_epochs: int = Field(200, ge=1)
    """Of a phase, whatever its accuracy does."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a target's probability that is spread over all classes."""

    def build(self, threads: int | None = None) -> Training:
        arguments: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            arguments["momentum"] = self.momentum
        optimizer = partial(OPTIMIZERS[self.optimizer], **arguments)
        names = ("patience", "settle_patience", "max_epochs", "label_smoothing")
        return Training(optimizer, threads=threads, **{name: getattr(self, name) for name in names})


class PruningConfig(_Section):
    """As in ``Pruning``."""

    score: Score = "l2"
    """What ranks the neurons."""
    step: float = 0.1
    """Share of the neurons still left that goes at once, at least one."""
    threshold: float = 0.01
    """By how much the training accuracy may fall, as a fraction of 1."""
    recovery_epochs: int = 5
    """For how long it may be won back after each step."""
    min_width: int | dict[str, int] = 1
    """Neurons of each layer that stay, or by layer."""
    schedule: Schedule = "constant"
    """In which steps they go; `fast` needs fewer epochs, `bisection` fewer trials."""
    lr_factor: float = 1.0
    """The recovery's learning rate, in terms of the optimizer's."""
    budget: float | dict[str, float] = 1.0
    """Share of a layer's neurons that a task may own at most, or by layer, whatever that costs."""

    def check(self) -> None:
        self.build()

    def build(self) -> Pruning:
        return Pruning(**self.model_dump())


class RoutingConfig(_Section):
    """As in ``Routing``."""

    router: RouterKind | Auto = Routing().router
    """What finds the task."""
    decision: Decision = Routing().decision
    """By the likeliest task, by task and label together, or by the surest head."""
    width: Width = Routing().width
    """How many neurons the router starts with."""
    false_rejections: float = 0.0
    """Share of validation inputs that may be answered "none of mine"."""
    pruned: bool = True
    """Whether neurons go that the router does not need."""

    def check(self) -> None:
        self.build(None)

    def build(self, pruning: PruningConfig | None) -> Routing:
        asked: Auto | Pruning | None = "auto" if pruning is None else pruning.build()
        return Routing(pruning=asked if self.pruned else None, **self.model_dump(exclude={"pruned"}))


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
    reads: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    """Earlier tasks to build on, or by layer; without, all."""
    pretrained: str | None = None
    """A `module:callable` that returns the trunk with the weights that the first task starts from."""

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
    """Of the run, and of the model that is exported from it."""
    trunk: TrunkConfig
    """The table `[trunk]`."""
    input: InputConfig
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
    probes: Literal["real", "synthetic"] = "synthetic"
    """Whether a few real inputs may be kept in checkpoints and archives, or random ones must do."""
    when_full: Literal["refuse", "reuse", "widen"] = "refuse"
    """What becomes of a task when a layer has no free neuron."""
    planned_tasks: int | None = Field(None, ge=1)
    """The number of tasks that share the trunk's neurons equally."""
    training: TrainingConfig = TrainingConfig()
    """The table `[training]`."""
    pruning: PruningConfig = PruningConfig()
    """The table `[pruning]`."""
    routing: RoutingConfig = RoutingConfig()
    """The table `[routing]`."""
    router_pruning: PruningConfig | None = None
    """The table `[router_pruning]`, with the keys of `[pruning]`; without, the default pruning."""

    def check(self) -> None:
        if self.router_pruning and not self.routing.pruned:
            raise ConfigError(
                "[routing] pruned = false, but [router_pruning] says how; leave one of them out"
            )
        if not self.validation and (self.routing.router == "experts" or self.routing.false_rejections):
            wants = "router" if self.routing.router == "experts" else "false_rejections"
            raise ConfigError(f"[routing] {wants} needs validation data: set validation = 0.1 at the top")
        if self.planned_tasks is not None and self.planned_tasks < len(self.tasks):
            raise ConfigError(
                f"planned_tasks = {self.planned_tasks}, for {len(self.tasks)} [[tasks]]; plan as many"
            )
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
    found = _read_toml(path)
    if list(found) == ["tasks"]:
        raise ConfigError(f"{path} holds [[tasks]] alone: `add-task RUN {path}` adds them to a run")
    config = validate(Config, found, path)
    trunk = config.trunk.model_copy(update={"target": located(config.trunk.target, path.parent)})
    return config.model_copy(update={"trunk": trunk, "tasks": _with_whole_paths(config.tasks, path)})


def read_tasks(path: Path) -> tuple[TaskConfig, ...]:
    """The ``[[tasks]]`` of a TOML file that holds nothing else."""
    found = _read_toml(path)
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
                "pretrained": t.pretrained and located(t.pretrained, file.parent),
            }
        )
        for t in tasks
    )


def _toml_of(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        return tomllib.loads(file.read().decode("utf-8-sig"))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        found = _toml_of(path)
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
