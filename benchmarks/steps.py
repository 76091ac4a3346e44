"""What a training step costs: blocks against the plain network of the same widths, in one run.

Five equal blocks, of which four are frozen; one block that owns everything; and, for ``make bench-scale``,
the last of many tasks. Plain and blocks run through the same training loop in turns, so that a busy machine
slows both; the figure is the median of the ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from eideticnet import EideticNetwork, Pruning, Training, batches
from eideticnet.block import Block
from eideticnet.data.rows import Loader
from eideticnet.learn.learning import logits_over
from eideticnet.learn.training import Classify, Job, adam, train_epoch
from eideticnet.learned import Learned
from eideticnet.models import convnet, mlp, resnet18, resnet50
from eideticnet.program import HEAD
from eideticnet.trace.tracing import trace

BLOCKS, CLASSES, ROUNDS = 5, 10, 7


def _mlp() -> tuple[nn.Module, Loader, int]:
    return mlp(784, (2000, 2000)), _loader((784,), 128, 8), 2000


def _conv() -> tuple[nn.Module, Loader, int]:
    return convnet(3, (160,) * 4, pool_every=9), _loader((3, 32, 32), 8, 2), 160


def _small_tasks(count: int) -> tuple[nn.Module, Loader, int]:
    """Tasks of 16 neurons a layer."""
    return mlp(784, (16 * count,) * 2), _loader((784,), 128, 8), 16 * count


def _resnet18() -> tuple[nn.Module, Loader, int]:
    return resnet18(), _loader((3, 32, 32), 32, 2), 512


def _loader(shape: tuple[int, ...], size: int, count: int) -> Loader:
    rows = size * count
    return batches(torch.randn(rows, *shape), torch.arange(rows) % CLASSES, size)


def _network(trunk: nn.Module, loader: Loader, blocks: int) -> tuple[EideticNetwork, Block]:
    """A network of ``blocks`` equal blocks, all but the last one frozen, which is returned."""
    net = EideticNetwork(trunk, next(iter(loader))[0])
    own = {g: n // blocks for g, n in net.program.groups.items()} | {HEAD: CLASSES}
    owners = [f"t{i}" for i in range(blocks)]
    made = [
        Block(net.program, o, tuple(owners[:i]), dict.fromkeys(owners, own)) for i, o in enumerate(owners)
    ]
    for block in made[:-1]:
        block.freeze()
    net.learned = Learned((), made[:-1])
    return net, made[-1]


def step_ratios(make: Callable[[], tuple[nn.Module, Loader, int]], blocks: int) -> list[float]:
    """Seconds of an epoch of the last of ``blocks`` blocks over those of the plain network, by round."""
    torch.manual_seed(0)
    trunk, loader, width = make()
    net, block = _network(trunk, loader, blocks)
    plain = nn.Sequential(trunk, nn.Linear(width, CLASSES))

    def job(logits: Callable[[nn.Module, Tensor], Tensor]) -> Job:
        return Job("bench", loader, Classify(CLASSES), net.inputs, Training(), (0,), logits)

    ours = job(logits_over(net.learned, net.inputs))
    theirs = job(lambda module, x: module(x))
    optimizers = adam(block.parameters()), adam(plain.parameters())
    ratios = []
    for turn in range(ROUNDS + 1):
        start = time.perf_counter()
        train_epoch(ours, block, optimizers[0], turn)
        middle = time.perf_counter()
        train_epoch(theirs, plain, optimizers[1], turn)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return ratios[1:]  # the first one warms up


def step_ratio(make: Callable[[], tuple[nn.Module, Loader, int]], blocks: int) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(step_ratios(make, blocks))


def by_tasks() -> dict[str, list[float]]:
    """The rounds' ratios by network and number of tasks, all of them but the last frozen."""
    found = {f"mlp.t{n}": step_ratios(partial(_small_tasks, n), n) for n in (10, 50, 100)}
    return found | {f"resnet18.t{n}": step_ratios(_resnet18, n) for n in (5, 15, 30)}


def trace_seconds() -> float:
    """Seconds to trace ResNet-50 at 224x224, once torch.export is loaded."""
    trace(mlp(8, (8,)), torch.zeros(2, 8))
    trunk, example = resnet50(), torch.zeros(2, 3, 224, 224)
    start = time.perf_counter()
    trace(trunk, example)
    return time.perf_counter() - start


def memory_ratio() -> float:
    """Bytes of a trained network's weight files over those of its owned parameters and buffers."""
    torch.manual_seed(0)
    x, y = torch.randn(256, 64), torch.arange(256) % 2
    net = EideticNetwork(mlp(64, (400, 400)), x)
    quick = Training(max_epochs=2)
    for i in range(3):
        net.train_task(
            str(i),
            batches(x + i, y),
            ["a", "b"],
            training=quick,
            pruning=Pruning(threshold=0.5, min_width=40),
        )
    with tempfile.TemporaryDirectory() as folder:
        net.save(folder)
        files = [p for p in Path(folder).glob("*.safetensors") if not p.name.startswith("probes")]
        stored = sum(p.stat().st_size for p in files)
    tensors = [t for o in net.learned.blocks for t in net.learned.block(o).layers.state_dict().values()]
    return float(stored / sum(t.numel() * t.element_size() for t in tensors))


def figures() -> dict[str, float]:
    """All of them, under their keys."""
    return {
        "step.mlp.frozen4of5": step_ratio(_mlp, BLOCKS),
        "step.mlp.frozen0": step_ratio(_mlp, 1),
        "step.conv.frozen4of5": step_ratio(_conv, BLOCKS),
        "step.conv.frozen0": step_ratio(_conv, 1),
        "trace.resnet50.seconds": trace_seconds(),
        "memory.ratio": memory_ratio(),
    }
