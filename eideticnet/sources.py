"""Where a task's data comes from: files or callables, split into training and held-out parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from eideticnet.config import TaskConfig
from eideticnet.data import Loader, batches, check_labels
from eideticnet.errors import DataError
from eideticnet.images import read_folder
from eideticnet.inputs import DTYPES, Inputs
from eideticnet.seeding import derive
from eideticnet.users_code import call


@dataclass(frozen=True)
class TaskData:
    """Loaders of one task: shuffled training data, and held-out data in order; ``validation`` is
    None where no share of the training data was set apart."""

    train: Loader
    test: Loader
    validation: Loader | None = None

    def first_inputs(self, count: int) -> Tensor:
        """The first training inputs (count, *shape), in the order of the source."""
        dataset: Any = self.train.dataset
        rows = [dataset[i][0] for i in range(min(count, len(dataset)))]
        return torch.stack(rows)


def open_task(
    task: TaskConfig,
    inputs: Inputs,
    *,
    seed: int,
    held_out: float,
    batch_size: int,
    validation: float = 0.0,
) -> TaskData:
    """Load a task's data. ``held_out`` is the share that is split off at random, the same for
    equal seeds, where the task names no test data; ``validation`` is split off the rest."""
    dataset = _open(task, task.data, task.arguments, inputs)
    if task.test is not None:
        test = _open(task, task.test, task.test_arguments, inputs)
    else:
        train_rows, test_rows = _split(dataset, held_out, derive(seed, task.name, "split"))
        if not train_rows:
            raise DataError(f"task {task.name!r}: {len(test_rows)} rows are too few to hold any out")
        dataset, test = _take(dataset, train_rows), _take(dataset, test_rows)
    for part in (dataset, test):
        if isinstance(part, TensorDataset):
            inputs.check(part.tensors[0])
            check_labels(part.tensors[1], len(task.classes), task.name)
    apart: Loader | None = None
    if validation:
        train_rows, rows = _split(dataset, validation, derive(seed, task.name, "validation"))
        apart, dataset = DataLoader(_take(dataset, rows), 256), _take(dataset, train_rows)
    if isinstance(dataset, TensorDataset):
        x, y = dataset.tensors
        train: Loader = batches(x, y, batch_size)
    else:
        train = DataLoader(dataset, batch_size, shuffle=True)
    return TaskData(train, DataLoader(test, 256), apart)


def _open(task: TaskConfig, source: str, arguments: dict[str, Any], inputs: Inputs) -> Dataset[Any]:
    name, path = task.name, Path(source)
    if path.is_dir():
        return _tensors(name, *read_folder(path, task.classes, inputs), inputs)
    if path.suffix in (".npz", ".safetensors"):
        return _tensors(name, *_read_file(name, path), inputs)
    if ":" not in source:
        raise DataError(f"task {name!r}: data {source!r} is no .npz, .safetensors, folder or module:callable")
    found = call(f"task {name!r}: data", source, arguments)
    if isinstance(found, tuple) and len(found) == 2:
        return _tensors(name, torch.as_tensor(found[0]), torch.as_tensor(found[1]), inputs)
    if isinstance(found, Dataset):
        return found
    raise DataError(f"task {name!r}: {source} returned {type(found).__name__}, not (x, y) or a Dataset")


def _read_file(name: str, path: Path) -> tuple[Tensor, Tensor]:
    try:
        if path.suffix == ".safetensors":
            arrays: Any = load_file(path)
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        return arrays["x"], arrays["y"]
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"task {name!r}: can't read {path}: {error}") from error
    except KeyError as error:
        raise DataError(f"task {name!r}: {path} holds no {error}; it needs x and y") from error


def _tensors(name: str, x: Tensor, y: Tensor, inputs: Inputs) -> TensorDataset:
    if len(x) != len(y) or len(x) < 2:
        raise DataError(f"task {name!r}: {len(x)} inputs and {len(y)} labels; it needs two or more of each")
    return TensorDataset(_cast(name, "x", x, DTYPES[inputs.dtype]), _cast(name, "y", y, torch.int64))


def _cast(name: str, what: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` as ``dtype``; whole numbers have to be whole before."""
    if not dtype.is_floating_point and values.is_floating_point() and bool((values != values.round()).any()):
        raise DataError(f"task {name!r}: {what} holds fractions where whole numbers are needed")
    return values.to(dtype)


def _split(dataset: Any, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows for training and for testing; of tensors, the same share of each class."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(dataset))
    y = dataset.tensors[1] if isinstance(dataset, TensorDataset) else torch.zeros(len(dataset))
    train, test = list[int](), list[int]()
    for label in y.unique():
        mine = rows[y == label]
        mine = mine[torch.randperm(len(mine), generator=generator)]
        count = min(max(round(len(mine) * held_out), 1), len(mine) - 1)  # each class is learned
        test += mine[:count].tolist()
        train += mine[count:].tolist()
    return sorted(train), sorted(test)


def _take(dataset: Dataset[Any], rows: list[int]) -> Dataset[Any]:
    if isinstance(dataset, TensorDataset):
        return TensorDataset(*(t[rows] for t in dataset.tensors))
    return Subset(dataset, rows)
