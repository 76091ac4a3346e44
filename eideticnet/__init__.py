"""Networks that learn task after task, never forget one, and need no task id when they answer."""

from importlib import import_module
from typing import Any

import eideticnet.signals  # noqa: F401 - first, for Ctrl-C while torch is imported
from eideticnet.answering import Named
from eideticnet.data import batches
from eideticnet.errors import (
    BudgetWarning,
    BusyError,
    CapacityError,
    CheckpointError,
    ConfigError,
    DamagedError,
    DataError,
    DataWarning,
    DivergedError,
    EideticError,
    NotReadyError,
    TrunkWarning,
    UnderfitWarning,
    UnsupportedError,
)
from eideticnet.evaluation import TaskReport, evaluate
from eideticnet.inputs import ImageInput, Inputs
from eideticnet.journal import Journal
from eideticnet.learned import Task
from eideticnet.network import EideticNetwork
from eideticnet.pruning import Pruning
from eideticnet.routing import FittedRouting, Output, Routing
from eideticnet.training import Event, Training, adam

__version__ = "0.1.0"

__all__ = [
    "BudgetWarning",
    "BusyError",
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "DamagedError",
    "DataError",
    "DataWarning",
    "Display",
    "DivergedError",
    "EideticError",
    "EideticNetwork",
    "Event",
    "FittedRouting",
    "ImageInput",
    "Inputs",
    "Journal",
    "Named",
    "NotReadyError",
    "Output",
    "Pruning",
    "Routing",
    "Task",
    "TaskReport",
    "Training",
    "TrunkWarning",
    "UnderfitWarning",
    "UnsupportedError",
    "adam",
    "batches",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    """What shows progress comes with libraries for terminals, which the method does without."""
    if name == "Display":
        return import_module("eideticnet.progress").Display
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
