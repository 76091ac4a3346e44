"""Where a task's data comes from: files or callables, split into training and held-out parts."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from eideticnet.data.pairs import as_tensor, pair
from eideticnet.data.plain import batches
from eideticnet.data.repeats import MANY, NEARLY_ALL, Keys, check_apart, found_in, named
from eideticnet.data.rows import Loader, Rows
from eideticnet.errors import DataError, DataWarning, RowError
from eideticnet.files import open_regular
from eideticnet.inputs import Inputs
from eideticnet.runs.config import TaskConfig
from eideticnet.runs.images import read_folder
from eideticnet.seeding import derive
from eideticnet.users_code import call, import_callable, nearest, unlocated

FEW = 5
"""Rows of a class from which little can be learned, or told."""


class _Seen(NamedTuple):
    """Rows by a key of their input (N,) and their label (N,)."""

    keys: Keys
    labels: Tensor

    def take(self, rows: list[int]) -> _Seen:
        return _Seen(self.keys[rows], self.labels[rows])


@dataclass(frozen=True)
class TaskData:
    """Loaders of one task: shuffled training data, and held-out data in order; ``validation`` is
    None where no share of the training data was set apart."""

    train: DataLoader[Any]
    test: Loader
    validation: Loader | None = None
    keys: Keys = field(kw_only=True)
    """Of all inputs of the source of the training data, as ``keys_of`` numbers them;"""
    under_names: Keys = field(kw_only=True)
    """the same as ``named`` does;"""
    learned: Keys = field(kw_only=True)
    """those that are trained on;"""
    held_out: Keys = field(kw_only=True)
    """and those of the held-out data."""

    def first_inputs(self, count: int) -> Tensor:
        """The first training inputs (count, *shape), in the order of the source."""
        if isinstance(dataset := self.train.dataset, TensorDataset):
            return dataset.tensors[0][:count]
        x, _ = next(iter(DataLoader(dataset, count)))
        return as_tensor("x", x)


def open_task(
    task: TaskConfig,
    inputs: Inputs,
    *,
    seed: int,
    held_out: float,
    batch_size: int,
    validation: float = 0.0,
    others: Collection[str] = (),
) -> TaskData:
    """Load a task's data. ``held_out`` is the share that is split off at random, the same for
    equal seeds, where the task names no test data; ``validation`` is split off the rest. A folder of
    images may hold those of ``others``, other tasks' classes, too."""
    dataset, seen = _open(task, task.data, task.arguments, inputs, others)
    keys, under_names = seen.keys, named(*seen, task.classes)
    if task.test is not None:
        test, held = _open(task, task.test, task.test_arguments, inputs, others, every_class=False)
    else:
        train_rows, test_rows = _split(dataset, held_out, derive(seed, task.name, "split"))
        if not train_rows:
            raise DataError(f"task {task.name!r}: {len(test_rows)} rows are too few to hold any out")
        dataset, test = _take(dataset, train_rows), _take(dataset, test_rows)
        seen, held = seen.take(train_rows), seen.take(test_rows)
        if isinstance(test, TensorDataset) and len(test.tensors[1].unique()) < len(task.classes):
            few = next(c for i, c in enumerate(task.classes) if not bool((test.tensors[1] == i).any()))
            raise DataError(
                f"task {task.name!r}, {task.data}: class {few} has one row; it needs another that can be "
                "held out, or name test data"
            )
    _check_held_out(task, seen, held)
    apart: Loader | None = None
    if validation:
        train_rows, rows = _split(dataset, validation, derive(seed, task.name, "validation"))
        apart, dataset = DataLoader(_take(dataset, rows), 256), _take(dataset, train_rows)
        seen = seen.take(train_rows)
    _check_enough(task, seen, held)
    train = _shuffled(task, dataset, batch_size)
    mine = {"keys": keys, "under_names": under_names, "learned": seen.keys, "held_out": held.keys}
    return TaskData(train, DataLoader(test, 256), apart, **mine)


def check_all_apart(tasks: Mapping[str, TaskData], *, shared: bool) -> None:
    """As ``check_apart``. In a ``shared`` label space the rows of one class may stand in several tasks, but
    it is said where one learns what another is tested with."""
    under_names = {name: data.under_names for name, data in tasks.items()}
    check_apart({name: data.keys for name, data in tasks.items()}, under_names if shared else None)
    for one, other in permutations(tasks, 2) if shared else ():
        rows = len(tasks[one].held_out)
        if (count := found_in(tasks[one].held_out, tasks[other].learned)) >= MANY * rows:
            warnings.warn(
                f"task {one!r}: {count} of {rows} test rows are training rows of task {other!r}, so accuracy "
                "is not that on new inputs; name `test` data that no task learns",
                DataWarning,
                stacklevel=2,
            )


def _shuffled(task: TaskConfig, dataset: Dataset[Any], batch_size: int) -> DataLoader[Any]:
    if not isinstance(dataset, TensorDataset):
        if task.augment:
            raise DataError(
                f"task {task.name!r}: augment changes batches of (x, y), and data is a Dataset; let that "
                "change its rows itself"
            )
        return DataLoader(dataset, batch_size, shuffle=True)
    x, y = dataset.tensors
    plain = batches(x, y, batch_size)
    if task.augment is None:
        return plain
    return DataLoader(_Augmented(task, x, y), sampler=plain.sampler, batch_size=None)


class _Augmented(TensorDataset):
    """Rows of which each batch is changed at random, by the numbers in use."""

    def __init__(self, task: TaskConfig, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self._what = f"task {task.name!r}: augment"
        self._change = import_callable(self._what, str(task.augment))
        self._arguments = task.augment_arguments

    def __getitem__(self, rows: Any) -> tuple[Tensor, Tensor]:
        x, y = (tensor[rows] for tensor in self.tensors)
        changed = as_tensor("x", self._change(x, **self._arguments))
        if changed.shape != x.shape:
            raise DataError(
                f"{self._what} made {tuple(changed.shape)} of {tuple(x.shape)}; return as many rows"
            )
        return changed, y


def _open(
    task: TaskConfig,
    source: str,
    arguments: dict[str, Any],
    inputs: Inputs,
    others: Collection[str],
    *,
    every_class: bool = True,
) -> tuple[Dataset[Any], _Seen]:
    """The whole of a source, looked at to the last row; with examples of ``every_class``, or of some."""
    try:
        found = _read(task, source, arguments, inputs, others)
        if not isinstance(found, Dataset):
            x, y = found
            found = TensorDataset(*pair(x, _numbered(y, task.classes), inputs, len(task.classes)))
            if len(found) < 2:
                raise DataError(f"{len(found)} inputs and {len(found)} labels; it needs two or more of each")
    except FileNotFoundError:
        key = "data" if source == task.data else "test"
        raise DataError(f"task {task.name!r}: {key} = {source!r}: there is no such file") from None
    except DataError as error:
        where = "" if source in str(error) else f", {unlocated(source)}"
        raise DataError(f"task {task.name!r}{where}: {error}") from error
    rows = Rows(task.name, DataLoader(found, 256), task.classes, inputs, unlocated(source))
    rows.look(every_class=every_class)
    return found, _Seen(*rows.seen)


def _check_held_out(task: TaskConfig, train: _Seen, test: _Seen) -> None:
    """Say how many rows of the test data were trained on."""
    count, rows = found_in(test.keys, train.keys), len(test.keys)
    source = task.data if task.test is None else task.test
    found = f"task {task.name!r}, {unlocated(source)}: {count} of {rows} test rows are training rows too"
    if task.test is not None and count >= NEARLY_ALL * rows:
        raise DataError(
            f"{found}; name test data that is not trained on, or leave `test` out, and "
            "a share of `data` is held out"
        )
    if count >= MANY * rows:
        warnings.warn(f"{found}, so accuracy is not that on new inputs", DataWarning, stacklevel=3)


def _check_enough(task: TaskConfig, train: _Seen, test: _Seen) -> None:
    for seen, use in ((train, "train on"), (test, "test with")):
        counts = torch.bincount(seen.labels, minlength=len(task.classes))
        if (fewest := int(counts.min())) < FEW:
            name = task.classes[int(counts.argmin())]
            warnings.warn(
                f"task {task.name!r}: class {name} has {fewest} of {len(seen.keys)} rows to {use}; fewer "
                f"than {FEW} say little (`test` and `validation` in the TOML are shares of each class)",
                DataWarning,
                stacklevel=3,
            )


def _read(
    task: TaskConfig, source: str, arguments: dict[str, Any], inputs: Inputs, others: Collection[str]
) -> Dataset[Any] | tuple[Any, Any]:
    path = Path(source)
    if path.is_dir():
        return read_folder(path, task.classes, inputs, others)
    if path.suffix.lower() in (".npz", ".safetensors"):
        return _read_file(path)
    if ":" not in source:
        if path.suffix == ".npy":
            raise DataError("a .npy file holds one array; save x and y with np.savez(file, x=x, y=y) as .npz")
        what = "it is" if path.exists() else "there is no such file, and it names"
        raise DataError(f"{what} no .npz, .safetensors, folder or module:callable")
    found = call(f"task {task.name!r}: data", source, arguments)
    if isinstance(found, Dataset) and hasattr(found, "__len__") and hasattr(found, "__getitem__"):
        return found
    if isinstance(found, tuple | list) and len(found) == 2:
        return found[0], found[1]
    raise DataError(f"it returned {type(found).__name__}, not (x, y) or a Dataset with a length")


def _read_file(path: Path) -> tuple[Any, Any]:
    try:
        with open_regular(path, None) as file:
            arrays: Any = load_file(path) if path.suffix.lower() == ".safetensors" else _npz(file)
    except (DataError, FileNotFoundError):
        raise
    except MemoryError as error:
        raise DataError(f"it does not fit into memory: {error}") from error
    except OSError as error:
        raise DataError(f"can't read it: {error.strerror or error}") from error
    except Exception as error:  # the readers raise errors of many kinds
        raise DataError(f"can't read it: {error or type(error).__name__}") from error
    missing = [name for name in "xy" if name not in arrays]
    if missing:
        raise DataError(f"it holds no {' and no '.join(missing)}; it needs x and y")
    return arrays["x"], arrays["y"]


def _npz(file: BufferedReader) -> dict[str, Any]:
    if not file.peek(4).startswith(b"PK"):  # numpy would take it for pickled objects
        raise DataError("can't read it: it is no .npz file, as np.savez(file, x=x, y=y) writes it")
    with np.load(file, allow_pickle=False) as arrays:
        found = dict[str, Any]()
        for name in (name for name in arrays.files if name in ("x", "y")):
            try:
                found[name] = arrays[name]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                how = "save numbers as numbers, text with dtype=str"
                raise DataError(f"{name} holds Python objects; {how}") from None
    return found


def _numbered(y: Any, classes: Sequence[str]) -> Any:
    """``y``, its labels numbered if they are names of ``classes``."""
    if isinstance(y, Tensor):
        return y
    names = np.asarray(y)
    names = np.asarray(names.tolist()) if names.dtype.kind == "O" else names
    if names.dtype.kind not in "SU":
        if names.ndim == 1 and names.dtype.kind in "biuf":
            _warn_of_names(np.unique(names).tolist(), classes)
        return names
    numbers = {name: number for number, name in enumerate(classes)}
    texts = [t.decode(errors="replace") if isinstance(t, bytes) else t for t in names.ravel().tolist()]
    for row, text in enumerate(texts):
        if text not in numbers:
            known = f"{', '.join(classes)}{nearest(text, classes)}"
            raise RowError(row, f"label {text!r} is no class; the classes are {known}")
    return np.array([numbers[text] for text in texts], np.int64).reshape(names.shape)


def _warn_of_names(labels: Collection[Any], classes: Sequence[str]) -> None:
    """Numbers are places among the classes, also where they are names of other ones."""
    names = {int(n): str(int(n)) for n in labels if float(n).is_integer() and 0 <= n < len(classes)}
    if len(names) == len(labels) and set(names.values()) <= set(classes):
        for place in (n for n, name in names.items() if classes[n] != name):
            warnings.warn(
                f"label {place} is {classes[place]!r}, as its place among the classes says, and not "
                f"{names[place]!r}; save labels as text where they are names",
                DataWarning,
                stacklevel=2,
            )


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
