"""``experiments/NAME.toml``: a run's configuration, and in ``[experiment]`` what is to be run of it."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eideticnet.errors import ConfigError
from eideticnet.hashing import json_hash
from eideticnet.runs.config import CHANGEABLE, NAME, ROUTERS, Config, read_config, read_toml, settled
from eideticnet.runs.problems import validate
from eideticnet.users_code import nearest

FOLDER = Path(__file__).parent
Method = Literal["joint", "single", "fine_tuning", "ewc", "replay", "packnet"]
"""What a network may be compared with."""
HELD_OUT = 0.1
"""Share of the training data by which settings are chosen (paper, section 4)."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Published(_Table):
    """What the paper reports, in per cent; by task and by class in the order of the configuration."""

    oracle: float | None = None
    """Accuracy with the task given."""
    routed: float | None = None
    """Accuracy with the task found by the network."""
    frozen: float | None = None
    """Share of the neurons that are frozen at the end."""
    oracle_by_task: tuple[float, ...] = ()
    """Of each task, the task given."""
    oracle_by_class: tuple[float, ...] = ()
    """Of each class, the task given."""
    routed_by_class: tuple[float, ...] = ()
    """Of each class, the task found."""


class Paper(Published):
    """What an experiment stands beside: figures that the paper reports, in per cent, and those it cites."""

    where: str = ""
    """Where in the paper it stands."""
    settings: dict[str, Published] = {}
    """What it says of single settings, by their names (`step=0.01,threshold=0.03`)."""
    cited: dict[str, float] = {}
    """Accuracies of others with the task given, by their names."""


class Experiment(_Table):
    """What `eidetic experiment` runs of the configuration in the same file; `eidetic train` refuses it."""

    title: str
    """Of its section on the page of experiments."""
    base: str | None = None
    """Another experiment, whose tables hold where this file has none."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """A run for each."""
    baselines: tuple[Method, ...] = ()
    """What it is compared with."""
    sweep: dict[str, list[Any]] = {}
    """A list of values for each key (`"pruning.step"`), of which every combination is run: a setting."""
    select: bool = False
    """Choose among settings as the paper does, on a tenth of the training data, without test data."""
    tasks: int | None = Field(None, ge=1)
    """Only so many, from the first."""
    shortened: str = ""
    """In which way it is less than the paper's."""
    paper: Paper = Paper()
    """The table `[experiment.paper]`."""


@dataclass(frozen=True)
class Setting:
    """One combination of a sweep: ``name`` is "" where there is no sweep."""

    name: str
    values: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Where its runs lie, as part of a path."""
        return re.sub(r"[^\w.=,-]+", "_", self.name)


@dataclass(frozen=True)
class Plan:
    """An experiment as its file says it: ``raw`` are a run's tables, before a setting replaces values."""

    name: str
    file: Path
    raw: Mapping[str, Any]
    experiment: Experiment

    @property
    def settings(self) -> Sequence[Setting]:
        """All that are to be run, in the order of the file."""
        sweep = self.experiment.sweep
        combinations = itertools.product(*sweep.values())
        return [_setting(dict(zip(sweep, values, strict=True))) for values in combinations]

    def config(self, setting: Setting, seed: int, device: str | None = None) -> Config:
        """The configuration of one run, on one thread of a CPU, or on a device."""
        raw: dict[str, Any] = {**_copied(self.raw), "seed": seed}
        raw["device"] = device or raw.get("device", "cpu")
        if raw["device"] == "cpu":
            raw.setdefault("threads", 1)
        for key, value in setting.values.items():
            _put(raw, key, value, self.file)
        raw["tasks"] = raw.get("tasks", [])[: self.experiment.tasks]
        if self.experiment.select:
            raw = _without_test_data(raw)
        return settled(validate(Config, raw, self.file), self.file)


def read(name: str) -> Plan:
    """The experiment of that name, or in that TOML file."""
    file = _file(name)
    raw = read_toml(file)
    if "experiment" not in raw:
        raise ConfigError(f"{file} has no [experiment]; `eidetic train {file}` runs it")
    experiment = validate(Experiment, raw.pop("experiment"), f"{file}: [experiment]")
    base, above = experiment.base, [file.stem]
    while base:
        if base in above:
            raise ConfigError(f"{file}: [experiment] base {base!r} is based on itself")
        under = read_toml(_file(base))
        above, base = [*above, base], under.pop("experiment", {}).get("base")
        raw = under | raw
    name = str(raw.get("name", file.stem))
    if not NAME.fullmatch(name):
        raise ConfigError(f"{file}: name = {name!r}: use up to 64 letters, digits, _ . and -")
    plan = Plan(name, file, raw, experiment)
    folders = [setting.folder for setting in plan.settings]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ConfigError(f"{file}: [experiment.sweep] has two settings that are called {twice[0]!r}")
    for config in [plan.config(setting, experiment.seeds[0]) for setting in plan.settings]:
        _check_baselines(experiment, config, file)
    return plan


def _check_baselines(experiment: Experiment, config: Config, file: Path) -> None:
    """``ConfigError`` if one of them lacks what it can't do without."""
    for method, key, wanted in (("ewc", "validation", 0.1), ("replay", "memory", 200)):
        if method in experiment.baselines and not getattr(config, key):
            raise ConfigError(
                f"{file}: [experiment] baselines: {method} needs {key} = {wanted} or so at the top; without, "
                "leave it out"
            )


def configuration(name: str, seed: int) -> Config:
    """Of an experiment's first setting, or of the TOML file of a run."""
    file = _file(name)
    if "experiment" not in read_toml(file):
        return read_config(file)
    plan = read(name)
    return plan.config(plan.settings[0], seed)


def fingerprint(config: Config, without: Collection[str] = ()) -> str:
    """SHA-256 of all that is asked of a run, except ``without`` and what it runs on. A key with its default
    counts as one that is not there, so further keys change nothing."""
    left_out = {"name", "device", "threads", *without}
    return json_hash(config.model_dump(mode="json", exclude=left_out, exclude_defaults=True))


def fingerprint_of_baseline(config: Config) -> str:
    """The same, of what is read of it by other methods alone; their seed is told beside it."""
    task = {"name", "classes", "data", "arguments", "test", "test_arguments", "augment", "augment_arguments"}
    parts = {"trunk", "input", "test", "validation", "memory", "training"}
    read: Any = {**dict.fromkeys(parts, True), "tasks": {"__all__": task}}
    return json_hash(config.model_dump(mode="json", include=read, exclude_defaults=True))


def fingerprints_of_baseline(config: Config) -> tuple[str, str]:
    """The one that is written, and the one that was, over keys that no other method reads."""
    return fingerprint_of_baseline(config), fingerprint(config, {"seed", *CHANGEABLE} - {"tasks"})


def clock_of(device: str) -> tuple[str, Callable[[], float]]:
    """What seconds are told by, since a CPU may be busy with other things and a GPU works beside it."""
    return ("processor", time.process_time) if device == "cpu" else ("wall", time.monotonic)


def names() -> list[str]:
    """All experiments that come with the package."""
    files = sorted(FOLDER.glob("*.toml"))
    return [file.stem for file in files if "[experiment]" in file.read_text()]


def _file(name: str) -> Path:
    given = Path(name)
    if given.suffix == ".toml":
        return given
    file = FOLDER / f"{name}.toml"
    if not NAME.fullmatch(name) or not file.exists():
        known = names()
        near = nearest(name, known) or f"; there are {', '.join(known)}"
        raise ConfigError(f"there is no experiment {name!r}{near}, or name a .toml file")
    return file


def _setting(values: Mapping[str, Any]) -> Setting:
    parts = [f"{key.rpartition('.')[2]}={value}" for key, value in values.items()]
    return Setting(",".join(parts), values)


def _put(raw: dict[str, Any], key: str, value: Any, file: Path) -> None:
    *tables, last = key.split(".")
    place = raw
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{file}: [experiment.sweep] {key!r}: {table} is no table")
    place[last] = value


def _without_test_data(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A run whose held-out data is a share of its training data, and that trains no router."""
    tasks = [{k: v for k, v in t.items() if k not in ("test", "test_arguments")} for t in raw["tasks"]]
    kept = {k: v for k, v in raw.items() if k not in ("validation", "moments", "memory", *ROUTERS)}
    routing = {"router": "none", "decision": "entropy"}
    return {**kept, "test": HELD_OUT, "routing": routing, "tasks": tasks}


def _copied(value: Any) -> Any:
    """Tables that may be changed."""
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return list(map(_copied, value)) if isinstance(value, list) else value
