"""Methods of Avalanche that learn task after task: ``fine_tuning``, ``ewc``, ``replay`` and ``packnet``.

Each trains one network, the trunk with one head, by the recipe and the stopping rule of a run. Where the task
is given, loss and answers are over a task's own classes; where it is found, over all: these are two networks.
PackNet, which has to know the task, has the first alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import EWCPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from eideticnet.data.pairs import as_tensor
from eideticnet.data.rows import Rows
from eideticnet.errors import ConfigError, DivergedError
from eideticnet.experiments.baselines.answers import Scope, found, given
from eideticnet.experiments.baselines.converging import Batches, Converging, share_right
from eideticnet.experiments.baselines.figures import Accuracies, Outcome, multiply_adds
from eideticnet.experiments.baselines.nets import Net, Packed
from eideticnet.experiments.baselines.plain import headed
from eideticnet.experiments.baselines.problem import Options, Problem
from eideticnet.learn.training import MEASURED
from eideticnet.network import Listener
from eideticnet.seeding import derive, seeded

STRENGTHS = (1e2, 1e4, 1e6)
"""Of EWC's penalty, of which validation data chooses one."""
_ANSWERS = {"given": given, "found": found}
Pairs = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Taught:
    """A network that has learned all tasks, its accuracies on test data, and their mean on validation data,
    0 where there is none."""

    net: Net
    accuracies: Accuracies
    validated: float


def fine_tuning(problem: Problem, options: Options, report: Listener) -> Outcome:
    """Nothing is done against forgetting."""
    return _outcome(problem, [_teach(problem, kind, report, []) for kind in _ANSWERS], "none")


def ewc(problem: Problem, options: Options, report: Listener) -> Outcome:
    """Elastic weight consolidation (Kirkpatrick et al. 2017), with a penalty for each earlier task."""
    strengths = STRENGTHS if options.strength is None else (options.strength,)
    if len(strengths) > 1 and not problem.config.validation:
        raise ConfigError("ewc: give --strength, or set validation = 0.1 in the TOML to have it chosen")
    best, notes, kept = list[Taught](), list[str](), 0
    for kind in _ANSWERS:
        tried = dict[float, Taught]()
        for strength in strengths:
            plugin = EWCPlugin(strength)
            with suppress(DivergedError):  # as the strongest may
                tried[strength] = _teach(problem, kind, report, [plugin])
                kept = _bytes(plugin.saved_params) + _bytes(plugin.importances)
        if not tried:
            raise DivergedError(f"ewc: no strength of {strengths} converges; lower the learning rate")
        chosen = max(tried, key=lambda strength: tried[strength].validated)
        best.append(tried[chosen])
        notes.append(
            f"strength {chosen:g} with the task {kind}, of {', '.join(map('{:g}'.format, strengths))}"
        )
    return _outcome(problem, best, "none", kept, notes)


def replay(problem: Problem, options: Options, report: Listener) -> Outcome:
    """Examples of earlier tasks, as many of each class, are half of each batch."""
    memory = options.memory or problem.config.memory
    if not memory:
        raise ConfigError("replay: give --memory K, the examples that are kept of each task")
    best, kept, total = list[Taught](), 0, memory * len(problem.data)
    for kind in _ANSWERS:
        policy = ClassBalancedBuffer(total, adaptive_size=False, total_num_classes=problem.classes)
        plugin = ReplayPlugin(total, storage_policy=policy)
        best.append(_teach(problem, kind, report, [plugin], partial(_kept, policy)))
        kept = sum(x.nbytes + y.nbytes for x, y in _kept(policy))
    return _outcome(problem, best, f"memory {memory}", kept)


def packnet(problem: Problem, options: Options, report: Listener) -> Outcome:
    """Each task has weights of its own, and uses those of earlier ones."""
    return _outcome(problem, [_teach(problem, "given", report, [], kind_of_net=Packed)], "none")


def _outcome(
    problem: Problem, taught: Sequence[Taught], seen: str, kept: int = 0, notes: Sequence[str] = ()
) -> Outcome:
    told, untold = taught[0], taught[1].accuracies if len(taught) > 1 else None
    (weights, besides), cost = told.net.bytes(), multiply_adds(problem, told.net)
    return Outcome(told.accuracies, untold, weights, besides + kept, cost, seen, list(notes))


def _teach(
    problem: Problem,
    kind: str,
    report: Listener,
    plugins: Sequence[SupervisedPlugin[Any]],
    memory: Callable[[], Pairs] = list,
    kind_of_net: type[Net] = Net,
) -> Taught:
    """Learn all tasks in turn. Which ``kind`` of answers is wanted decides over which classes; ``memory`` is
    what accuracy is measured on beside a task's own data."""
    config, training = problem.config, problem.config.training.build(problem.config.threads)
    RNGManager.set_random_seeds(derive(problem.seed, kind) % 2**32)
    with seeded(problem.seed, kind):
        net = kind_of_net(config.input, *headed(problem.trunk(), problem.classes, config.input)).to(
            problem.device
        )
    owners = [task for task, span in enumerate(problem.spans) for _ in span]
    scope = Scope(torch.tensor(owners) * (kind == "given"), training.label_smoothing)
    told = Converging(training, scope, lambda event: report(replace(event, task=f"{event.task}, {kind}")))
    strategy = SupervisedTemplate(
        model=net,
        optimizer=training.optimizer_of(net.parameters()),
        criterion=scope.loss,
        train_mb_size=config.training.batch_size,
        train_epochs=2 * training.max_epochs,
        device=problem.device,
        plugins=[*plugins, told],
        evaluator=None,
    )
    accuracies, tasks = Accuracies(), len(problem.data)
    for task in range(tasks):
        net.at(task)
        kept, mine = memory(), partial(_labelled, problem, task, problem.train(task))
        measured: list[Batches] = [mine, partial(iter, kept)] if kept else [mine]
        told.begin(problem.names[task], measured, problem.augment(task), left=tasks - task - 1)
        data = _Numbered(problem.data[task].train.dataset, problem.spans[task].start)
        strategy.train(_experience(data), eval_streams=[])
        net.learned()
        net.eval()
        accuracies.measure(problem, task + 1, lambda x, of: _ANSWERS[kind](problem, net.at(of))(x, of))
    return Taught(net, accuracies, _validated(problem, net, scope))


class _Numbered(Dataset[tuple[Tensor, int]]):
    """A task's rows one by one, labels numbered through; batches are augmented, where they are."""

    def __init__(self, data: Any, start: int) -> None:
        self._data = TensorDataset(*data.tensors) if isinstance(data, TensorDataset) else data
        self.targets = [int(self._data[row][1]) + start for row in range(len(self._data))]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return as_tensor("x", self._data[row][0]), self.targets[row]


def _experience(part: _Numbered) -> Any:
    """An experience of Avalanche. What is kept of others comes with task labels, so all rows have one."""
    targets = DataAttribute(part.targets, "targets")
    labels = DataAttribute([0] * len(part), "targets_task_labels", use_in_getitem=True)
    dataset = AvalancheDataset([part], data_attributes=[targets, labels])
    return benchmark_from_datasets(train=[dataset]).train_stream[0]


def _labelled(problem: Problem, task: int, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """A pass over enough of the rows to tell accuracy, always the same, labels numbered through."""
    every = -(-rows.count // MEASURED)
    for x, y in islice(rows.batches(problem.seed, "accuracy"), 0, None, every):
        yield x, y + problem.spans[task].start


def _kept(policy: ClassBalancedBuffer) -> Pairs:
    """The examples, in batches; nothing before the first task is learned."""
    return [(x, y) for x, y, *_ in DataLoader(policy.buffer, 1024)] if len(policy.buffer) else []


def _validated(problem: Problem, net: Net, scope: Scope) -> float:
    shares = [
        share_right(net.at(task), partial(_labelled, problem, task, rows), scope)
        for task in range(len(problem.data))
        if (rows := problem.validation(task)) is not None
    ]
    return sum(shares) / len(shares) if shares else 0.0


def _bytes(kept: dict[int, dict[str, Any]]) -> int:
    """Of what EWC keeps of each task: a tensor for each parameter."""
    return sum(part.data.nbytes for of_task in kept.values() for part in of_task.values())
