"""A user's folder: a trunk of their own, data of three tasks and a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.task_files import write_tasks

CONFIG = """
name = "mine"
seed = 1
[trunk]
target = "my_trunk:build"
arguments = { width = 24 }
[input]
shape = [6]
[training]
learning_rate = 0.02
max_epochs = 4
patience = 2
[pruning]
step = 0.5
threshold = 0.3
[[tasks]]
name = "birds"
classes = ["owl", "wren"]
data = "birds.npz"
[[tasks]]
name = "fish"
classes = ["cod", "eel", "ray"]
data = "fish.safetensors"
"""
TASKS = """
[[tasks]]
name = "frogs"
classes = ["common", "tree"]
data = "frogs.npz"
"""
TRUNK = """from torch import nn


def build(width):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
"""


@dataclass
class Result:
    """How a command line ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """What it says on standard error, which has to be one line, for a status of 1."""
        assert self.returncode == 1, self
        assert self.stderr.startswith("error: "), self
        assert self.stderr.count("\n") == 1, self
        return self.stderr


def write_project(folder: Path) -> None:
    """The data, ``my_trunk.py``, ``config.toml`` and, to add a task, ``more.toml``."""
    write_tasks(folder)
    (folder / "my_trunk.py").write_text(TRUNK)
    (folder / "config.toml").write_text(CONFIG)
    (folder / "more.toml").write_text(TASKS)
