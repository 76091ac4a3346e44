"""Peak memory of training a task, against a plain loop that trains the same trunk on the same batches.

Each runs in a process of its own, with the same imports, one thread and the allocator as it is, and the
figure is the most that was resident at any time, tracing and pruning included. What an allocator keeps
differs from run to run, so it is the median of several.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from eideticnet import EideticNetwork, Pruning, Training, batches
from eideticnet.data.rows import Loader
from eideticnet.learn.training import adam
from eideticnet.models import convnet

ROUNDS, EPOCHS, CLASSES, WIDTHS = 5, 2, 2, (48, 48, 96, 96)
WAYS = ("eidetic", "plain")
ROOT = Path(__file__).parents[1]


def _data() -> Loader:
    torch.manual_seed(0)
    return batches(torch.randn(768, 3, 32, 32), torch.arange(768) % CLASSES, 256)


def _eidetic(loader: Loader) -> None:
    net = EideticNetwork(convnet(3, WIDTHS), next(iter(loader))[0][:2])
    pruning = Pruning(step=0.5, threshold=0.5, recovery_epochs=1, min_width=6)
    training = Training(max_epochs=EPOCHS, threads=1)
    net.train_task("a", loader, ["0", "1"], training=training, pruning=pruning)
    with torch.no_grad():
        for x, _ in loader:
            net.task_logits(x, "a")


def _plain(loader: Loader) -> None:
    net = nn.Sequential(convnet(3, WIDTHS), nn.Linear(WIDTHS[-1], CLASSES))
    optimizer = adam(net.parameters())
    for _ in range(2 * EPOCHS):
        for x, y in loader:
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for x, _ in loader:
                net.eval()(x)
        net.train()


def _peak() -> float:
    """The most that was ever resident of this process, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _measured(way: str) -> float:
    """The peak of one way of training, in a new process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peaks", way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def figures() -> dict[str, float]:
    """Both peaks in megabytes, and the first over the second."""
    found = {way: statistics.median(_measured(way) for _ in range(ROUNDS)) for way in WAYS}
    peaks = {f"train.memory.{way}": peak for way, peak in found.items()}
    return {"train.memory": found["eidetic"] / found["plain"], **peaks}


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"eidetic": _eidetic, "plain": _plain}[sys.argv[1]](_data())
    print(_peak())
