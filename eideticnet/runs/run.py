"""A run: a network in a folder, brought step by step to what its configuration asks for.

After each task the checkpoint is written, and while one is learned a journal, so an interrupted run
goes on after the last epochs that it finished, and ends with the same bits as one that was not.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from eideticnet.checkpoint import MANIFEST, meant
from eideticnet.errors import BudgetWarning, CapacityError, ConfigError, DataError
from eideticnet.files import write_whole
from eideticnet.hashing import json_hash, tensor_hash
from eideticnet.inputs import DTYPES
from eideticnet.learn.journal import Journal
from eideticnet.learn.learning import Room
from eideticnet.learn.pruning import Pruning
from eideticnet.learn.reading import check_path
from eideticnet.learn.training import Event
from eideticnet.learned import ROUTER, Task
from eideticnet.network import PROBES, EideticNetwork, Listener
from eideticnet.route.router import has_moments
from eideticnet.runs.config import ROUTERS, Config, TaskConfig
from eideticnet.runs.evaluation import evaluate
from eideticnet.runs.history import Recorder, read
from eideticnet.runs.problems import differences, validate
from eideticnet.runs.progress import Display
from eideticnet.runs.sources import TaskData, check_all_apart, open_task
from eideticnet.users_code import blamed, call, unlocated

ENOUGH = 200
"""Held-out inputs of a task by which `eidetic verify` judges its routing."""
JOURNAL = "journal.safetensors"


def exists(folder: Path) -> bool:
    """Whether ``folder`` holds a run."""
    return (folder / MANIFEST).exists()


def existing(folder: Path) -> Path:
    """``folder``, which has to hold a run."""
    if not exists(folder):
        raise ConfigError(f"{folder} holds no run{meant(folder)}")
    return folder


def begin(config: Config) -> EideticNetwork:
    """A network that has learned nothing yet."""
    inputs, what = config.input, f"trunk {unlocated(config.trunk.target)!r}"
    trunk = made("trunk", config.trunk.target, config.trunk.arguments)
    low, _ = inputs.bounds()
    example = torch.full((2, *inputs.shape), low).to(DTYPES[inputs.dtype])
    with blamed(what):
        net = EideticNetwork(trunk, example, inputs=inputs, seed=config.seed, label_space=config.label_space)
    record(net, config)
    return net


def made(what: str, target: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """The module that ``target`` returns; ``what`` it is stands in errors."""
    found = call(what, target, arguments)
    if not isinstance(found, torch.nn.Module):
        raise ConfigError(f"{what} {unlocated(target)!r} returned {type(found).__name__}, not a Module")
    return found


def load(folder: Path) -> tuple[EideticNetwork, Config]:
    """The network in ``folder`` and the configuration that it follows."""
    net = EideticNetwork.load(folder)
    return net, recorded_config(net, folder)


def recorded_config(net: EideticNetwork, folder: Path) -> Config:
    """The configuration that the network of ``folder`` was begun with, further tasks included."""
    if "config" not in net.metadata:
        raise ConfigError(f"{folder} was not made by `eidetic train`: it names no data")
    return validate(Config, net.metadata["config"], folder / MANIFEST)


def record(net: EideticNetwork, config: Config) -> Config:
    """``config``, from now on recorded in the network."""
    net.metadata = {**net.metadata, "config": config.model_dump(mode="json")}
    net.planned_tasks = config.planned_tasks
    return config


def continued(net: EideticNetwork, config: Config, folder: Path) -> Config:
    """``config`` for the run that was begun with it, with the tasks that were added since. What learned
    tasks depend on has to be as it was: ``ConfigError`` says what is not."""
    begun = recorded_config(net, folder)
    both = min(len(net.tasks), len(config.tasks))
    changed = list(differences(begun.made_of(both), config.made_of(both)))
    if changed:
        raise ConfigError(
            f"{folder} was begun with another configuration: {'; '.join(changed)}. Put that back, or begin "
            "again with another --out"
        )
    if any(getattr(begun, key) != getattr(config, key) for key in ROUTERS):
        net.learned = net.learned.with_router(None, None)  # to be fitted again
    net.answer_in(config.label_space)
    count, before = len(config.tasks), net.metadata
    added = () if any(differences(begun.made_of(count), config.made_of(count))) else begun.tasks[count:]
    config = record(net, config.model_copy(update={"tasks": (*config.tasks, *added)}))
    if net.metadata != before and is_complete(net, config):
        net.save(folder)
    return config


@contextmanager
def alone_in(folder: Path, say: Callable[[str], Any]) -> Iterator[None]:
    """Hold the run's lock, so that two programs never work on one run at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"can't write to {folder}: {error.strerror or error}; name another folder"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another program that works on this run")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_data(net: EideticNetwork, config: Config) -> dict[str, TaskData]:
    """The data of every task of ``config``: the router needs the old tasks' too, unless examples
    or moments were kept of them."""
    found, missing, problems = dict[str, TaskData](), list[Exception](), list[Exception]()
    known = {task.name: task for task in net.tasks}
    for task in config.tasks:
        try:
            found[task.name] = opened(task, config)
        except (DataError, ConfigError) as error:
            if task.name not in known:
                problems.append(error)
            elif not _is_dispensable(net, known[task.name], config):
                missing.append(error)
    if missing or problems:
        needs = ["the router needs the data of every task, old and new"] if missing else []
        text = "; ".join([*map(str, problems), *map(str, missing), *needs])
        raise DataError(text) from (*problems, *missing)[0].__cause__
    if config.routing.router != "none":
        check_all_apart(found, shared=config.label_space == "shared")
    return found


def opened(task: TaskConfig, config: Config) -> TaskData:
    """The data of one task of ``config``, looked at to the last row."""
    with blamed(f"task {task.name!r}"):
        return open_task(
            task,
            config.input,
            seed=config.seed,
            held_out=config.test,
            batch_size=config.training.batch_size,
            validation=config.validation,
            others={c for t in config.tasks if _share_files(t, task) for c in t.classes},
        )


def changed_data(net: EideticNetwork, data: Mapping[str, TaskData]) -> list[str]:
    """The learned tasks whose data is not what they were learned from, as far as that was kept."""
    known = net.metadata.get("rows", {})
    return [
        name for name, found in data.items() if name in known and _rows_hash(net, name, found) != known[name]
    ]


def _record_rows(net: EideticNetwork, name: str, data: TaskData) -> None:
    """Remember what a task was learned from, and what was held out."""
    kept = _rows_hash(net, name, data)
    if kept is not None:
        net.metadata = {**net.metadata, "rows": {**net.metadata.get("rows", {}), name: kept}}


def _rows_hash(net: EideticNetwork, name: str, data: TaskData) -> str | None:
    """SHA-256 of a task's training and held-out rows; None where they are no tensors at hand, and may be
    drawn again in each pass."""
    digests = list[str]()
    for loader in (data.train, data.test):
        whole = net.rows({name: loader})[name].tensors
        if whole is None:
            return None
        digests += map(tensor_hash, whole)
    return json_hash(digests)


def _share_files(one: TaskConfig, other: TaskConfig) -> bool:
    """Whether two tasks take data from one place."""
    return bool({one.data, one.test or one.data} & {other.data, other.test or other.data})


def _is_dispensable(net: EideticNetwork, task: Task, config: Config) -> bool:
    """Whether a router can do without the data of a task that is learned already."""
    kind, kept = config.routing.router, has_moments(net.learned, task)
    if kind in ("moments", "none"):
        return kept or kind == "none"
    return task.memory is not None and (kept or kind != "experts")


def with_tasks(net: EideticNetwork, config: Config, new: tuple[TaskConfig, ...], source: Path) -> Config:
    """The run's configuration with the further tasks of ``source``; one that is there already must be
    the same."""
    known = {t.name: t for t in config.tasks}
    for task in new:
        changed = task.name in known and any(differences(known[task.name].made_of(), task.made_of()))
        if changed:
            raise ConfigError(
                f"{source}: there is another task {task.name!r} already; give the new one another name"
            )
        known[task.name] = task
    planned = config.planned_tasks and max(config.planned_tasks, len(known))
    joined = config.model_copy(update={"tasks": tuple(known.values()), "planned_tasks": planned})
    return record(net, validate(Config, joined.model_dump(mode="json"), source))


def is_complete(net: EideticNetwork, config: Config) -> bool:
    """Whether all tasks of ``config`` and a router for them are learned."""
    learned = {t.name for t in net.tasks}
    return net.learned.routing is not None and learned == {t.name for t in config.tasks}


def routed(net: EideticNetwork) -> dict[str, float]:
    """Each task's accuracy with the task found by the network, when it was last measured."""
    return {name: report["routed"] for name, report in net.metadata.get("report", {}).items()}


def doubts(net: EideticNetwork) -> list[str]:
    """What ended too early or was pruned too far, in a line each that says what to change, and where."""
    history = read(net)
    found = [(name, doubt, "Training") for name, doubt in history.doubts.items()]
    found += [(name, curve.overdrawn, "Pruning") for name, curve in history.pruning.items()]
    return [
        f"{name}: {doubt} (keys of [{kind.lower()}] in the TOML, with another --out; or to keep this run, in "
        f"Python, {_again(name, kind)})"
        for name, doubt, kind in found
        if doubt
    ]


def _again(name: str, kind: str) -> str:
    """How a task, or the router, of a run is learned once more with another ``Training`` or ``Pruning``."""
    if name == ROUTER:
        return f"net.fit_router with another {kind}, and net.save"
    return f"net.revise_task({name!r}, ...) with another {kind}, net.save, and the same command once more"


def complete(
    net: EideticNetwork, config: Config, data: dict[str, TaskData], folder: Path, display: Display
) -> None:
    """Learn the tasks that are missing, then the router; measure; save after each."""
    training, learned = config.training.build(config.threads), {t.name for t in net.tasks}
    history = Recorder(net, {name: d.test for name, d in data.items()})

    def report(event: Event) -> None:
        display.event(event)
        history.event(event)

    journal = Journal(folder / JOURNAL, say=display.say)
    for task in config.tasks:
        if task.name not in learned:
            with _in_terms_of_the_toml(f"task {task.name!r}", config):
                _learn(net, config, task, data[task.name], report, journal)
            history.task_learned(task.name, config.pruning.threshold)
            _record_rows(net, task.name, data[task.name])
            net.save(folder)
            journal.remove()
            display.finished(f"{task.name}: {_neurons(net, task.name)}")
    routing = config.routing.build(config.router_pruning)
    seen = data if config.router_data == "all" else {config.tasks[-1].name: data[config.tasks[-1].name]}
    with _in_terms_of_the_toml("router", config):
        net.fit_router(
            {name: d.train for name, d in seen.items()},
            routing=routing,
            validation={name: d.validation for name, d in seen.items() if d.validation is not None},
            training=training,
            when_full=config.when_full,
            report=report,
            journal=journal,
        )
    reports = evaluate(net, {name: d.test for name, d in data.items()})
    told = {name: asdict(r) for name, r in reports.items()}
    net.metadata = {**net.metadata, "report": told, "measured": net.state()}
    history.router_learned(reports, routing)
    net.save(folder)
    journal.remove()
    assert net.learned.routing is not None, "it was just fitted"
    display.finished(f"router: {_neurons(net, ROUTER)} ({net.learned.routing.router})")
    display.say(str(net.capacity().arithmetic))


@contextmanager
def _in_terms_of_the_toml(what: str, config: Config) -> Iterator[None]:
    """Say which key to change where there is no room, and whose code it is that fails."""
    try:
        with blamed(what):
            yield
    except CapacityError as error:
        raise CapacityError(
            error.found,
            'set when_full = "widen" at the top of the TOML (add-task: --when-full widen), or "reuse" to '
            "learn with the features there are; or start over, with neurons kept for later tasks "
            f"(planned_tasks = {len(config.tasks)} at the top, or a [pruning] budget), with harder [pruning] "
            f"(threshold above {config.pruning.threshold}) or with more neurons in [trunk] arguments",
        ) from None


def check(net: EideticNetwork, config: Config, source: Path) -> None:
    """Raise at once what would be raised when tasks are learned already; ``source`` is their TOML
    file, or the run."""
    for table in ("pruning", "router_pruning"):
        pruning: Pruning | None = getattr(config, table)
        if pruning is not None:
            try:
                pruning.limits(net.program)
            except ConfigError as error:
                raise ConfigError(f"{source}: [{table}] {error}") from None
    for task in config.tasks:
        try:
            for path in task.reads if isinstance(task.reads, dict) else ():
                check_path(path, net.program)
        except DataError as error:
            raise ConfigError(f"{source}: [[tasks]] {task.name!r} {error}") from None
    net.to(usable(config.device))
    _check_room(net, config, source)


def _check_room(net: EideticNetwork, config: Config, source: Path) -> None:
    """Raise ``CapacityError`` where a task to come would not get what it needs at least; warn where the
    budgets of all are more than there is."""
    tasks = max(config.planned_tasks or 0, len(config.tasks)) - len(net.tasks)
    if config.when_full != "refuse" or not tasks:
        return
    limits = config.pruning.limits(net.program)
    room, names = Room(net.learned, tasks, limits.least), [t.name for t in config.tasks[len(net.tasks) :]]
    if room.lacking(net.program):
        with _in_terms_of_the_toml(str(source), config):
            raise CapacityError(f"{source}: {', '.join(names)}: {room.found(net.program)}", "")
    budgeted = {g: n for g, n in limits.most.items() if n < net.program.groups[g]}
    over = [g for g, n in room.share(net.program).items() if budgeted.get(g, 0) > n]
    if over and not config.planned_tasks:
        warnings.warn(
            f"{source}: {tasks} tasks with a [pruning] budget of {budgeted[over[0]]} neurons of {over[0]} "
            f"are more than it has, so the last may find none; with planned_tasks = {len(config.tasks)} all "
            "find an equal share",
            BudgetWarning,
            stacklevel=2,
        )


def usable(device: str) -> torch.device:
    """The device of this name, if torch can compute on it here."""
    names = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        names += [str(kind), *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
    if device not in names:
        raise ConfigError(f"device = {device!r}: torch can use {', '.join(map(repr, names))} on this machine")
    return torch.device(device)


def _learn(
    net: EideticNetwork,
    config: Config,
    task: TaskConfig,
    data: TaskData,
    report: Listener,
    journal: Journal,
) -> None:
    net.train_task(
        task.name,
        data.train,
        task.classes,
        pruning=config.pruning,
        training=config.training.build(config.threads),
        when_full=config.when_full,
        reads=task.reads,
        pretrained=made("pretrained", task.pretrained, task.pretrained_arguments)
        if task.pretrained
        else None,
        probes=data.first_inputs(PROBES) if config.probes == "real" else None,
        memory=config.memory,
        moments=config.moments,
        moments_of=config.moments_of,
        report=report,
        journal=journal,
    )


def _neurons(net: EideticNetwork, name: str) -> str:
    layers = {path: layer for path, layer in net.capacity().items() if layer["total"]}  # no random features
    rows = [f"{layer.get(name, 0)} of {layer['total']} in {path}" for path, layer in layers.items()]
    return ", ".join(rows).replace(" in ", " neurons in ", 1)


def write_held_out(net: EideticNetwork, config: Config, file: Path) -> Iterator[str]:
    """Write the held-out inputs of all tasks as ``x`` (N, *shape), ``task`` and ``label`` (N,); what the
    user may want to know of it, in lines."""
    if file.suffix != ".safetensors" or file.exists() or not file.parent.is_dir():
        what = "is there already" if file.exists() else "is no .safetensors file in a folder that is there"
        raise ConfigError(f"{file} {what}; name a new .safetensors file")
    data, rows = open_data(net, config), list[tuple[Tensor, Tensor, Tensor]]()
    if changed := changed_data(net, data):
        raise DataError(
            f"the data of {', '.join(map(repr, changed))} is not what was learned from, so rows that were "
            "trained on would be held out; put the data back as it was"
        )
    held_out = net.rows({task.name: data[task.name].test for task in net.tasks if task.name in data})
    for index, task in enumerate(net.tasks):
        given = held_out[task.name].batches("held out") if task.name in held_out else ()
        mine = [(x, torch.full_like(y, index), y) for x, y in given]
        count = sum(len(y) for _, _, y in mine)
        few = "" if count >= ENOUGH else f", where a proof about its routing wants {ENOUGH}"
        yield f"{task.name}: {count} held-out inputs{few}"
        rows += mine
    columns = (torch.cat(column) for column in zip(*rows, strict=True))
    arrays = dict(zip(("x", "task", "label"), columns, strict=True))
    write_whole(file, save({name: array.contiguous() for name, array in arrays.items()}))
    yield f"held out: {file}"
