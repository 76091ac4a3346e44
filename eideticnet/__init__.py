"""Networks that learn task after task, never forget one, and need no task id when they answer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eideticnet.answering import Named as Named
    from eideticnet.data.plain import batches as batches
    from eideticnet.data.streams import StreamTask as StreamTask
    from eideticnet.data.streams import stream_tasks as stream_tasks
    from eideticnet.decision import FittedRouting as FittedRouting
    from eideticnet.decision import Output as Output
    from eideticnet.errors import BudgetWarning as BudgetWarning
    from eideticnet.errors import BusyError as BusyError
    from eideticnet.errors import CapacityError as CapacityError
    from eideticnet.errors import CheckpointError as CheckpointError
    from eideticnet.errors import ConfigError as ConfigError
    from eideticnet.errors import DamagedError as DamagedError
    from eideticnet.errors import DataError as DataError
    from eideticnet.errors import DataWarning as DataWarning
    from eideticnet.errors import DivergedError as DivergedError
    from eideticnet.errors import EideticError as EideticError
    from eideticnet.errors import NotReadyError as NotReadyError
    from eideticnet.errors import TrunkWarning as TrunkWarning
    from eideticnet.errors import UnderfitWarning as UnderfitWarning
    from eideticnet.errors import UnsupportedError as UnsupportedError
    from eideticnet.inputs import ImageInput as ImageInput
    from eideticnet.inputs import Inputs as Inputs
    from eideticnet.learn.journal import Journal as Journal
    from eideticnet.learn.pruning import Pruning as Pruning
    from eideticnet.learn.training import Event as Event
    from eideticnet.learn.training import Training as Training
    from eideticnet.learn.training import adam as adam
    from eideticnet.learned import Task as Task
    from eideticnet.network import EideticNetwork as EideticNetwork
    from eideticnet.route.options import Routing as Routing
    from eideticnet.runs.evaluation import TaskReport as TaskReport
    from eideticnet.runs.evaluation import evaluate as evaluate
    from eideticnet.runs.progress import Display as Display

__version__ = "0.1.0"

_HOMES = {
    "answering": "Named",
    "data.plain": "batches",
    "data.streams": "StreamTask stream_tasks",
    "decision": "FittedRouting Output",
    "errors": "BudgetWarning BusyError CapacityError CheckpointError ConfigError DamagedError DataError "
    "DataWarning DivergedError EideticError NotReadyError TrunkWarning UnderfitWarning UnsupportedError",
    "inputs": "ImageInput Inputs",
    "learned": "Task",
    "network": "EideticNetwork",
    "learn.journal": "Journal",
    "learn.pruning": "Pruning",
    "learn.training": "Event Training adam",
    "route.options": "Routing",
    "runs.evaluation": "TaskReport evaluate",
    "runs.progress": "Display",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """Import what is asked for: who only reads, serves or asks a server needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return found
