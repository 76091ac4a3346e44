"""What no continual method has: all data at once (``joint``), or a network for each task (``single``)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from eideticnet.data.interleaving import interleaved
from eideticnet.data.rows import Loader
from eideticnet.experiments.baselines.answers import found, given
from eideticnet.experiments.baselines.figures import Accuracies, Outcome, multiply_adds, size
from eideticnet.experiments.baselines.plain import fit
from eideticnet.experiments.baselines.problem import Options, Problem
from eideticnet.network import Listener


def joint(problem: Problem, options: Options, report: Listener) -> Outcome:
    """One network that learns all classes at once. Where the task is given, it answers one of its classes."""
    tasks = len(problem.data)
    parts = [problem.train(task) for task in range(tasks)]
    loader = interleaved(parts, [span.start for span in problem.spans])
    net = _fit(problem, "joint", problem.classes, loader, report)
    told, untold = Accuracies(), Accuracies()
    logits = partial(_logits, problem, net)
    told.measure(problem, tasks, given(problem, logits))
    untold.measure(problem, tasks, found(problem, logits))
    return Outcome(told, untold, size(net), 0, multiply_adds(problem, net), "all")


def single(problem: Problem, options: Options, report: Listener) -> Outcome:
    """A network of the whole trunk for each task, which answers where the task is given."""
    nets: list[nn.Module] = []
    told = Accuracies()
    for task, (name, span, data) in enumerate(zip(problem.names, problem.spans, problem.data, strict=True)):
        nets.append(_fit(problem, name, len(span), data.train, report))
        told.measure(problem, task + 1, lambda x, task: _logits(problem, nets[task], x).argmax(1))
    return Outcome(told, None, sum(map(size, nets)), 0, multiply_adds(problem, nets[-1]), "none")


def _logits(problem: Problem, net: nn.Module, x: Tensor) -> Tensor:
    return net(problem.config.input.normalise(x))  # type: ignore[no-any-return]


def _fit(problem: Problem, name: str, classes: int, loader: Loader, report: Listener) -> nn.Module:
    config = problem.config
    training = config.training.build(config.threads)
    return fit(
        name,
        problem.trunk,
        classes,
        loader,
        config.input,
        training,
        problem.seed,
        device=problem.device,
        report=report,
    )
