"""CONFIG.toml: the trunk, the tasks and how they are trained, checked before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from eideticnet.errors import ConfigError
from eideticnet.inputs import Inputs
from eideticnet.pruning import Pruning
from eideticnet.routing import Auto, Decision, RouterKind, Routing, Width
from eideticnet.schedules import Schedule
from eideticnet.scores import Score
from eideticnet.training import Training

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": torch.optim.SGD,
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Section = TypeVar("Section", bound=_Section)


class TrunkConfig(_Section):
    """``target`` is a ``module:callable`` that returns an ``nn.Module``."""

    target: str
    arguments: dict[str, Any] = {}


class ImageConfig(_Section):
    """How a PNG or JPEG file becomes an input, as in ``ImageInput``."""

    size: tuple[int, int]
    mode: Literal["RGB", "L"] = "RGB"
    resize: Literal["bilinear", "none"] = "bilinear"
    layout: Literal["CHW", "flat"] = "CHW"
    scale: float = Field(255.0, gt=0)


class InputConfig(_Section):
    """The input contract, as in ``Inputs``."""

    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"
    low: float | None = None
    high: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image: ImageConfig | None = None


class TrainingConfig(_Section):
    """The optimizer and when to stop, as in ``Training``."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0)
    batch_size: int = Field(64, ge=1)
    patience: int = Field(5, ge=1)
    settle_patience: int = Field(20, ge=1)
    max_epochs: int = Field(200, ge=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def build(self) -> Training:
        arguments: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            arguments["momentum"] = self.momentum
        optimizer = partial(OPTIMIZERS[self.optimizer], **arguments)
        return Training(optimizer, self.patience, self.settle_patience, self.max_epochs, self.label_smoothing)


class PruningConfig(_Section):
    """As in ``Pruning``."""

    score: Score = "l2"
    step: float = 0.1
    threshold: float = 0.01
    recovery_epochs: int = 5
    min_width: int | dict[str, int] = 1
    schedule: Schedule = "constant"
    lr_factor: float = 1.0

    @model_validator(mode="after")
    def _is_possible(self) -> PruningConfig:
        self.build()
        return self

    def build(self) -> Pruning:
        return Pruning(**self.model_dump())


class RoutingConfig(_Section):
    """As in ``Routing``."""

    router: RouterKind | Auto = Routing().router
    decision: Decision = Routing().decision
    width: Width = Routing().width
    false_rejections: float = 0.0

    @model_validator(mode="after")
    def _is_possible(self) -> RoutingConfig:
        self.build(None)
        return self

    def build(self, pruning: PruningConfig | None) -> Routing:
        return Routing(pruning=None if pruning is None else pruning.build(), **self.model_dump())


class TaskConfig(_Section):
    """``data`` is an ``.npz`` or ``.safetensors`` file with ``x`` and ``y``, a folder with a folder of
    images for each class, or a ``module:callable`` that returns ``(x, y)`` or a Dataset; ``test``
    likewise, where held-out data is not to be split off. ``reads`` names the earlier tasks to build
    on, by default all, or does so by layer; ``pretrained`` is a ``module:callable`` that returns the trunk
    with the weights that the first task starts from."""

    name: str
    classes: tuple[str, ...]
    data: str
    arguments: dict[str, Any] = {}
    test: str | None = None
    test_arguments: dict[str, Any] = {}
    reads: tuple[str, ...] | dict[str, tuple[str, ...]] | None = None
    pretrained: str | None = None

    @field_validator("classes")
    @classmethod
    def _are_two_or_more(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise ValueError("a task needs two or more different classes")
        return classes


class Config(_Section):
    """``test`` is the share of each task's data held out, ``validation`` the share of the rest that
    calibrates the routing and trains nothing; ``memory`` examples of each task and class sums of
    ``moments`` random features are kept for routers to come; without ``router_pruning`` the router
    keeps all neurons that are free, until the next task takes them; ``probes`` says whether a few real
    inputs may be kept in checkpoints and archives, or random ones must do; ``threads`` are torch's,
    by default as many as it likes, which is slower on small networks and busy machines."""

    name: str
    trunk: TrunkConfig
    input: InputConfig
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    seed: int = 0
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)
    test: float = Field(0.25, gt=0, lt=1)
    validation: float = Field(0.0, ge=0, lt=1)
    memory: int = Field(0, ge=0)
    moments: int = Field(0, ge=0)
    probes: Literal["real", "synthetic"] = "synthetic"
    when_full: Literal["refuse", "reuse", "widen"] = "refuse"
    training: TrainingConfig = TrainingConfig()
    pruning: PruningConfig = PruningConfig()
    routing: RoutingConfig = RoutingConfig()
    router_pruning: PruningConfig | None = None

    def inputs(self) -> Inputs:
        return Inputs.from_json(self.input.model_dump(exclude_none=True))

    @field_validator("tasks")
    @classmethod
    def _have_names_of_their_own(cls, tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError("two tasks have the same name")
        return tasks

    def made_of(self) -> dict[str, Any]:
        """What learned tasks depend on; the rest may change while a run goes on."""
        return self.model_dump(exclude={"tasks", "device", "when_full", "routing", "router_pruning"})


class TasksConfig(_Section):
    """A file that only adds tasks to a network that exists."""

    tasks: tuple[TaskConfig, ...] = Field(min_length=1)


def read_config(path: Path) -> Config:
    """The configuration in a TOML file; ``ConfigError`` names file and field."""
    config = validate(Config, _read_toml(path), path)
    return config.model_copy(update={"tasks": _with_whole_paths(config.tasks, path)})


def read_tasks(path: Path) -> tuple[TaskConfig, ...]:
    """The ``[[tasks]]`` of a TOML file that holds nothing else."""
    return _with_whole_paths(validate(TasksConfig, _read_toml(path), path).tasks, path)


def _with_whole_paths(tasks: tuple[TaskConfig, ...], file: Path) -> tuple[TaskConfig, ...]:
    """Data files are looked up beside the file that names them, wherever a run is continued."""

    def whole(source: str | None) -> str | None:
        is_callable = source is None or ":" in source
        return source if is_callable else str((file.parent / str(source)).resolve())

    return tuple(t.model_copy(update={"data": whole(t.data), "test": whole(t.test)}) for t in tasks)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"can't read {path}: {error}") from error


def validate(kind: type[Section], data: dict[str, Any], source: object) -> Section:
    """``data`` as a ``kind``; ``ConfigError`` lists every field that is wrong."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(problems)) from None


def resolve(target: str) -> Callable[..., Any]:
    """The callable that ``module:name`` names."""
    module, _, name = target.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{target!r} can't be imported: {error}; write it as module:callable") from error
    if not callable(found):
        raise ConfigError(f"{target!r} is no callable")
    return found  # type: ignore[no-any-return]
