"""``python -m eideticnet.experiments.baselines NAME --method M --seed S --out FILE``: one method and seed."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from eideticnet.__main__ import main
from eideticnet.errors import ConfigError, MissingExtraError
from eideticnet.experiments.baselines import bounds
from eideticnet.experiments.baselines.figures import Outcome
from eideticnet.experiments.baselines.problem import Options, Problem
from eideticnet.experiments.settings import Method, clock_of, configuration, fingerprint_of_baseline
from eideticnet.files import write_whole
from eideticnet.learn.threads import using
from eideticnet.network import Listener
from eideticnet.runs.machine import versions
from eideticnet.runs.progress import Display
from eideticnet.signals import stoppable

_PLAIN = ("joint", "single")
"""These need no Avalanche."""
_PACKAGES = ("torch", "numpy", "avalanche-lib")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def baseline(
    config: Annotated[str, typer.Argument(metavar="NAME", help="An experiment, or a run's TOML file.")],
    method: Annotated[Method, typer.Option(help="What the network is compared with.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The JSON file that is written.")],
    seed: Annotated[int, typer.Option(help="Decides every random number.")] = 0,
    memory: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Of replay: examples kept of each task; default: NAME's."),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(min=0, help="Of EWC's penalty; default: chosen on validation data.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where data sets lie, instead of EIDETIC_DATA.")
    ] = None,
) -> None:
    """Learn the tasks of NAME by another method, with the same trunk, data and recipe.

    A FILE that is there already is left as it is, if it holds the same.
    """
    if data is not None:
        os.environ["EIDETIC_DATA"] = str(data)
    settings = configuration(config, seed)
    options = Options(memory, strength)
    asked = {
        "method": method,
        "seed": seed,
        "options": asdict(options),
        "fingerprint": fingerprint_of_baseline(settings),
    }
    with stoppable(f"{out} is not written"), Display() as display:
        if _is_there(out, asked):
            display.say(f"{out} is there already")
            return
        result = asked | _run(Problem.of(settings, seed), options, method, display)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, (json.dumps(result, indent=1) + "\n").encode())
        display.finished(f"{method}, seed {seed}: {_line(result)}")


def _is_there(out: Path, asked: dict[str, Any]) -> bool:
    """Whether the result is there; ``ConfigError`` if it is that of something else."""
    if not out.exists():
        return False
    try:
        known = json.loads(out.read_text())
        others = [key for key, value in asked.items() if known[key] != value]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{out} holds no result of a baseline; name another --out") from None
    if others:
        raise ConfigError(
            f"{out} holds a result with another {' and '.join(others)}; remove it, or name another --out"
        )
    return True


def _run(problem: Problem, options: Options, method: str, report: Listener) -> dict[str, Any]:
    """The result as JSON has it."""
    quietly = nullcontext() if method in _PLAIN else warnings.catch_warnings(action="ignore")
    name, clock = clock_of(problem.config.device)
    start = clock()
    with using(problem.config.threads or torch.get_num_threads()), quietly:  # Avalanche warns of itself
        outcome = _learns(method)(problem, options, report)
    return {
        "name": problem.config.name,
        "given": outcome.given.told(),
        "found": outcome.found and outcome.found.told(),
        "network_bytes": outcome.network_bytes,
        "memory_bytes": outcome.memory_bytes,
        "multiply_adds": outcome.multiply_adds,
        "data_seen": outcome.seen,
        "notes": outcome.notes,
        "seconds": clock() - start,
        "clock": name,
        "device": problem.config.device,
        "threads": torch.get_num_threads(),
        "versions": versions(*_PACKAGES),
    }


def _learns(method: str) -> Callable[[Problem, Options, Listener], Outcome]:
    if method in _PLAIN:
        return getattr(bounds, method)  # type: ignore[no-any-return]
    try:
        return getattr(import_module("eideticnet.experiments.baselines.continual"), method)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{method} needs {error.name}; `make .venv-baselines/installed` makes an environment that has it"
        ) from None
    except RuntimeError as error:  # of torchvision, which Avalanche imports
        raise MissingExtraError(
            f"{method}: {error}; torch and torchvision have to come from one index (TORCH_INDEX)"
        ) from None


def _line(result: dict[str, Any]) -> str:
    kinds = {"given": "task given", "found": "task found"}
    parts = [f"{result[kind]['mean']:.2%} with the {words}" for kind, words in kinds.items() if result[kind]]
    return f"{', '.join(parts)}; {result['seconds']:.0f} s"


if __name__ == "__main__":
    main(menu="eideticnet.experiments.baselines.__main__", name="python -m eideticnet.experiments.baselines")
