"""``results/NAME.json``: all that an experiment found, from the folders of its runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eideticnet.errors import ConfigError
from eideticnet.experiments.measured import Measured, Table
from eideticnet.experiments.one import FIGURES, finished, read_json
from eideticnet.experiments.settings import Plan, Setting, fingerprints_of_baseline
from eideticnet.files import write_whole
from eideticnet.runs.machine import versions

FOLDER = Path(__file__).parent / "results"
BASELINES = "baselines"
_PACKAGES = ("torch", "numpy", "eideticnet")


class Result(Table):
    """``runs[setting][seed]``, where a setting is "" if there is no sweep, and ``baselines[method][seed]``:
    what that method's program wrote. ``chosen``: of a selection that is complete, the setting whose mean
    over the seeds is best on the data that was held out of the training data."""

    name: str
    title: str
    shortened: str
    selection: bool
    configuration: dict[str, Any]
    sweep: dict[str, dict[str, Any]]
    versions: dict[str, str]
    device: str
    runs: dict[str, dict[str, Measured]]
    baselines: dict[str, dict[str, dict[str, Any]]]
    chosen: str | None = None

    def mean(self, figure: str, setting: str = "") -> float | None:
        """Over the seeds, of ``oracle``, ``task``, ``routed``, ``madds`` or ``frozen``; None if none ran."""
        values = [_figure(run, figure) for run in self.runs.get(setting, {}).values()]
        return sum(values) / len(values) if values else None


def _figure(run: Measured, figure: str) -> float:
    if figure == "madds":
        return run.multiply_adds.share
    found = getattr(run, figure)
    return float(getattr(found, "mean", found))


def folder_of(out: Path, setting: Setting, seed: int) -> Path:
    """Where a run lies."""
    return out / setting.folder / f"seed-{seed}"


def gather(plan: Plan, out: Path) -> Result:
    """All runs of ``plan`` that are complete, also of other seeds than were asked for last, and what the
    baselines wrote into ``out/baselines/METHOD/seed-N.json``."""
    runs = {setting.name: dict(_runs(plan, out, setting)) for setting in plan.settings}
    runs = {name: of for name, of in runs.items() if of}
    devices = dict.fromkeys(run.device for of in runs.values() for run in of.values())
    methods = sorted(p for p in (out / BASELINES).glob("*") if p.is_dir())
    experiment = plan.experiment
    result = Result(
        name=plan.name,
        title=experiment.title,
        shortened=experiment.shortened,
        selection=experiment.select,
        configuration=_portable(plan),
        sweep={setting.name: dict(setting.values) for setting in plan.settings if setting.name},
        versions={**versions(*_PACKAGES), "cores": str(os.cpu_count())},
        device=", ".join(devices),
        runs=runs,
        baselines={m.name: dict(_told(plan, m)) for m in methods},
    )
    return result.model_copy(update={"chosen": _best(plan, result)}) if experiment.select else result


def summary(result: Result) -> Iterator[str]:
    """Accuracies of each setting in a line, as means over its seeds."""
    for setting, of in result.runs.items():
        known = ((what, result.mean(what, setting)) for what in ("oracle", "task", "routed"))
        oracle, task, routed = (f"{100 * (value or 0.0):.2f}%" for _, value in known)
        name = f"{setting}, " if setting else ""
        yield f"{name}{len(of)} seeds: {oracle} with the task given, {task} find it, {routed} routed"


def write(result: Result, folder: Path) -> Path:
    """Write the result's file; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result.name}.json"
    write_whole(file, (json.dumps(result.model_dump(), indent=1, ensure_ascii=False) + "\n").encode())
    return file


def read(file: Path) -> Result:
    """The result in a file."""
    try:
        return Result.model_validate_json(file.read_bytes())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"{file} is no result of an experiment at {where}; run it again") from None


def _runs(plan: Plan, out: Path, setting: Setting) -> Iterator[tuple[str, Measured]]:
    """Those that were made with the configuration as it is now."""
    found = (out / setting.folder).glob(f"seed-*/{FIGURES}")
    for seed in _seeds(file.parent.name for file in found):
        folder = folder_of(out, setting, seed)
        if figures := finished(plan.config(setting, seed), folder):
            yield str(seed), figures


def _told(plan: Plan, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for seed in _seeds(file.stem for file in folder.glob("seed-*.json")):
        if told := baseline(plan, folder / f"seed-{seed}.json", seed):
            yield str(seed), told


def _seeds(names: Iterable[str]) -> list[int]:
    """Those that folders or files are called after, whatever else lies beside them."""
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"seed-(\d+)", name)))


def baseline(plan: Plan, file: Path, seed: int) -> dict[str, Any] | None:
    """What a baseline wrote there, if that is of the configuration as it is now."""
    told = read_json(file)
    asked = fingerprints_of_baseline(plan.config(plan.settings[0], seed))
    return told if told and told.get("fingerprint") in asked else None


def _portable(plan: Plan) -> dict[str, Any]:
    """The configuration of the first setting, without the paths of this machine."""
    config = plan.config(plan.settings[0], plan.experiment.seeds[0])
    tasks = len(config.tasks)
    keep = config.model_dump(
        mode="json", include={"routing", "router_pruning", "router_data", "planned_tasks"}
    )
    return {**config.made_of(tasks), **keep}


def _best(plan: Plan, result: Result) -> str | None:
    """The setting that is chosen, once all were run with all seeds."""
    seeds = set(map(str, plan.experiment.seeds))
    if any(seeds - result.runs.get(setting.name, {}).keys() for setting in plan.settings):
        return None
    reached = {name: result.mean("oracle", name) or 0.0 for name in result.runs}
    return max(reached, key=lambda name: reached[name], default=None)
