"""A run: a network in a folder, brought step by step to what its configuration asks for.

After each task the checkpoint is written, and while one is learned a journal, so an interrupted run
goes on after the last epochs that it finished, and ends with the same bits as one that was not.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from eideticnet.checkpoint import MANIFEST
from eideticnet.config import Config, TaskConfig, resolve, validate
from eideticnet.errors import ConfigError, DataError
from eideticnet.evaluation import evaluate
from eideticnet.history import Recorder
from eideticnet.inputs import DTYPES
from eideticnet.journal import Journal
from eideticnet.learned import Task
from eideticnet.network import EideticNetwork, Report
from eideticnet.progress import Display
from eideticnet.sources import TaskData, open_task
from eideticnet.training import Event

PROBES = 8
JOURNAL = "journal.safetensors"


def exists(folder: Path) -> bool:
    """Whether ``folder`` holds a run."""
    return (folder / MANIFEST).exists()


def begin(config: Config) -> EideticNetwork:
    """A network that has learned nothing yet."""
    inputs = config.inputs()
    trunk = resolve(config.trunk.target)(**config.trunk.arguments)
    if not isinstance(trunk, torch.nn.Module):
        raise ConfigError(f"trunk {config.trunk.target!r} returned {type(trunk).__name__}, not a Module")
    low, _ = inputs.bounds()
    example = torch.full((2, *inputs.shape), low).to(DTYPES[inputs.dtype])
    net = EideticNetwork(trunk, example, inputs=inputs, seed=config.seed)
    net.metadata = {"config": config.model_dump(mode="json")}
    return net


def load(folder: Path) -> tuple[EideticNetwork, Config]:
    """The network in ``folder`` and the configuration that it follows."""
    net = EideticNetwork.load(folder)
    return net, recorded_config(net, folder)


def recorded_config(net: EideticNetwork, folder: Path) -> Config:
    """The configuration that the network of ``folder`` was begun with, further tasks included."""
    if "config" not in net.metadata:
        raise ConfigError(f"{folder} was not made by `python -m eideticnet train`: it names no data")
    return validate(Config, net.metadata["config"], folder / MANIFEST)


def record(net: EideticNetwork, config: Config, tasks: tuple[TaskConfig, ...]) -> Config:
    """``config`` with these tasks, from now on recorded in the network."""
    config = config.model_copy(update={"tasks": tasks})
    net.metadata = {**net.metadata, "config": config.model_dump(mode="json")}
    return config


@contextmanager
def alone_in(folder: Path, say: Callable[[str], Any]) -> Iterator[None]:
    """Hold the run's lock, so that two programs never work on one run at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another program that works on this run")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_data(net: EideticNetwork, config: Config) -> dict[str, TaskData]:
    """The data of every task of ``config``: the router needs the old tasks' too, unless examples
    or moments were kept of them."""
    found, missing = {}, []
    known = {task.name: task for task in net.tasks}
    for task in config.tasks:
        try:
            found[task.name] = open_task(
                task,
                net.inputs,
                seed=config.seed,
                held_out=config.test,
                batch_size=config.training.batch_size,
                validation=config.validation,
            )
        except (DataError, ConfigError) as error:
            if task.name not in known or not _is_dispensable(net, known[task.name], config):
                missing.append(str(error))
    if missing:
        raise DataError("the router needs the data of every task, old and new; " + "; ".join(missing))
    return found


def _is_dispensable(net: EideticNetwork, task: Task, config: Config) -> bool:
    """Whether a router can do without the data of a task that is learned already."""
    kind, moments = config.routing.router, net.learned.moments
    has_moments = moments is not None and task.name in moments.sums
    if kind in ("moments", "none"):
        return has_moments or kind == "none"
    return task.memory is not None and (has_moments or kind != "experts")


def with_tasks(net: EideticNetwork, config: Config, new: tuple[TaskConfig, ...]) -> Config:
    """The run's configuration with further tasks; one that is there already must be the same."""
    known = {t.name: t for t in config.tasks}
    for task in new:
        if known.get(task.name, task) != task:
            raise ConfigError(f"there is another task {task.name!r} already; give the new one another name")
    added = [t for t in new if t.name not in known]
    return record(net, config, (*config.tasks, *added))


def is_complete(net: EideticNetwork, config: Config) -> bool:
    """Whether all tasks of ``config`` and a router for them are learned."""
    learned = {t.name for t in net.tasks}
    return net.learned.routing is not None and learned == {t.name for t in config.tasks}


def complete(
    net: EideticNetwork, config: Config, data: dict[str, TaskData], folder: Path, display: Display
) -> None:
    """Learn the tasks that are missing, then the router; measure; save after each."""
    training, learned = config.training.build(), {t.name for t in net.tasks}
    net.to(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    history = Recorder(net, {name: d.test for name, d in data.items()})
    report = _to_both(display.event, history.event)
    journal = Journal(folder / JOURNAL, say=display.say)
    for task in config.tasks:
        if task.name not in learned:
            _learn(net, config, task, data[task.name], report, journal)
            history.task_learned(task.name, config.pruning.threshold)
            net.save(folder)
            journal.remove()
            display.finished(f"{task.name}: {_neurons(net, task.name)}")
    net.fit_router(
        {name: d.train for name, d in data.items()},
        routing=config.routing.build(config.router_pruning),
        validation={name: d.validation for name, d in data.items() if d.validation is not None},
        training=training,
        when_full=config.when_full,
        report=report,
        journal=journal,
    )
    reports = evaluate(net, {name: d.test for name, d in data.items()})
    net.metadata = {**net.metadata, "report": {name: asdict(r) for name, r in reports.items()}}
    history.router_learned(
        reports, None if config.router_pruning is None else config.router_pruning.threshold
    )
    net.save(folder)
    journal.remove()
    assert net.learned.routing is not None, "it was just fitted"
    display.finished(f"router: {_neurons(net, 'router')} ({net.learned.routing.router})")


def _to_both(first: Report, second: Report) -> Report:
    def report(event: Event) -> None:
        first(event)
        second(event)

    return report


def _learn(
    net: EideticNetwork,
    config: Config,
    task: TaskConfig,
    data: TaskData,
    report: Report,
    journal: Journal,
) -> None:
    net.train_task(
        task.name,
        data.train,
        task.classes,
        pruning=config.pruning.build(),
        training=config.training.build(),
        when_full=config.when_full,
        reads=task.reads,
        pretrained=None if task.pretrained is None else resolve(task.pretrained)(),
        probes=data.first_inputs(PROBES) if config.probes == "real" else None,
        memory=config.memory,
        moments=config.moments,
        report=report,
        journal=journal,
    )


def _neurons(net: EideticNetwork, name: str) -> str:
    rows = [f"{layer.get(name, 0)} of {layer['total']}" for layer in net.capacity().values()]
    return f"{', '.join(rows)} neurons"
