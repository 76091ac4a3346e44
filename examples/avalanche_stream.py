"""An Avalanche benchmark's stream, in Avalanche's own environment: ``make .venv-baselines/installed``."""

import torch
from avalanche.benchmarks import nc_benchmark
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from eideticnet import EideticNetwork, Inputs, Training, evaluate, stream_tasks
from eideticnet.models import mlp

x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
x, held_out = x.float(), torch.arange(len(y)) % 4 == 0


def part(rows):
    dataset = TensorDataset(x[rows], y[rows])
    dataset.targets = y[rows].tolist()  # Avalanche asks for them
    return dataset


benchmark = nc_benchmark(part(~held_out), part(held_out), 5, task_labels=False, seed=0)

net = EideticNetwork(mlp(64, (64, 64)), x[:2], inputs=Inputs((64,), low=0, high=16, std=(16,)))
loaders, training = {}, Training(settle_patience=5)
for name, loader, classes in stream_tasks(benchmark.train_stream):
    loaders[name] = loader
    net.train_task(name, loader, classes, training=training)
net.fit_router(loaders, training=training)
tests = {task.name: task.loader for task in stream_tasks(benchmark.test_stream)}
for name, report in evaluate(net, tests).items():
    print(f"{name}: task given {report.oracle:.4f}, task found {report.routed:.4f}")
