"""What a loader gives of a task: read in one way everywhere, in an order that names decide, and checked."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    SequentialSampler,
    default_collate,
)

from eideticnet.data.draws import Draws
from eideticnet.data.held import unmoved
from eideticnet.data.pairs import as_tensor, pair
from eideticnet.data.plain import DATASETS, is_plain
from eideticnet.data.repeats import Keys, contradicted, keys_of
from eideticnet.errors import DataError, DataWarning, EideticError, RowError
from eideticnet.hashing import tensor_hash
from eideticnet.inputs import Inputs
from eideticnet.users_code import blame

Loader = Iterable[Any]
"""A DataLoader, or anything else that gives batches (x, y) each time that it is iterated."""
_UNDECIDED = (
    "its loader gives other rows when it is read again with the same seed, so no result can be repeated: it "
    "draws in a thread of its own, or from what no seed decides; num_workers=1 loads ahead, too"
)
LOOKS = 3
"""The number of passes within which a sampler that draws at random should show a rare class."""
LONG = 10.0
"""Seconds that a loader may take for a pass whose end is not known, until that is told."""


@dataclass(frozen=True)
class Rows:
    """The rows that ``loader`` gives of ``task``, whose ``classes`` are names or numbers, one for each label.

    Loaders are read through this alone, so every reader sees the rows that were learned from.
    Every error is a ``DataError`` that names the task, and the ``source`` where there is one.
    """

    task: str
    loader: Loader
    classes: Sequence[object]
    inputs: Inputs
    source: str = ""

    def __post_init__(self) -> None:
        found, kind = self.loader, type(self.loader).__name__
        if isinstance(found, Iterator) and type(found).__module__ in ("builtins", "itertools"):
            raise self._error(
                f"its loader is a {kind}, which can be read only once; pass a DataLoader or a list"
            )
        if isinstance(found, Dataset) and not isinstance(found, Iterable):
            raise self._error("its loader is a Dataset; pass DataLoader(dataset, 64, shuffle=True)")
        if not isinstance(found, Iterable) or isinstance(found, str | bytes | dict | Tensor):
            raise self._error(f"its loader is a {kind}; pass a DataLoader, or batches(x, y)")
        if isinstance(found, DataLoader) and found.persistent_workers:
            # Such workers draw other numbers the more often they were read.
            found = copy.copy(found)
            vars(found)["persistent_workers"] = False
            object.__setattr__(self, "loader", found)

    def batches(self, *names: object) -> Generator[tuple[Tensor, Tensor]]:
        """One pass, decided by ``names``: ``x`` (N, *shape) in the contract's type, raw, and ``y`` (N,)
        int64, N at least 1. What ``pair`` can convert is converted; what it refuses is a ``DataError``. They
        are the caller's: a loader may fill the same memory with its next batch."""
        empty, fitting = True, self._fitting is not None
        for number, batch in enumerate(self._given(*names)):
            x, y = batch if fitting else self._pair(batch, partial(self._place, number, batch))
            if len(y):
                empty = False
                yield (x, y) if fitting else (x.clone(), y.clone())
        if empty:
            drops = any(_sampled(self.loader, "drop_last"))
            dropped = "; drop_last drops the only batch there is" if drops else ""
            raise self._error(f"its loader gives no data{dropped}")

    @property
    def tensors(self) -> tuple[Tensor, Tensor] | None:
        """All rows at once, as ``batches`` gives them, if the loader gives each row of two tensors once in
        every pass and as it stands; else None. Rows that have to be converted are converted for every
        caller."""
        if not is_plain(self.loader):
            return None
        return self._fitting or self._converted()

    def _converted(self) -> tuple[Tensor, Tensor]:
        return self._pair(self.loader.dataset.tensors, "row {}".format)  # type: ignore[attr-defined]

    @cached_property
    def _fitting(self) -> tuple[Tensor, Tensor] | None:
        """The rows of a plain loader, if they need no conversion: the very tensors, looked at."""
        if not is_plain(self.loader):
            return None
        given: tuple[Tensor, ...] = self.loader.dataset.tensors  # type: ignore[attr-defined]
        found = self._converted()
        fits = all(
            type(t) is Tensor and not t.requires_grad and (t.dtype, t.shape) == (mine.dtype, mine.shape)
            for t, mine in zip(given, found, strict=True)
        )
        return found if fits else None

    def look(self, *, every_class: bool = False) -> None:
        """Look at all that the loader gives, so that what is wrong is said before anything is trained on it;
        with ``every_class`` also that there is no example of one."""
        seen = self.counts > 0
        for again in range(1, LOOKS if every_class and not is_plain(self.loader) else 1):
            if not bool(seen.all()):
                seen[torch.cat([y.cpu() for _, y in self.batches("look", again)])] = True
        missing = [str(name) for name, some in zip(self.classes, seen.tolist(), strict=True) if not some]
        if every_class and missing:
            raise self._error(
                f"no example of class {', '.join(missing)} among {int(self.counts.sum())} rows; "
                "leave it out of the classes, or add examples"
            )
        if every_class:
            self._look_for_repeats()

    def _look_for_repeats(self) -> None:
        keys, y = self.seen
        if bool((keys == keys[0]).all()):
            raise self._error(f"all {len(keys)} inputs are the same, so no class can be told from another")
        if rows := contradicted(keys, y):
            found = f"{rows} of {len(keys)} rows hold an input that also stands there with another label"
            warnings.warn(str(self._error(found)), DataWarning, stacklevel=4)

    @cached_property
    def counts(self) -> Tensor:
        """How many rows of each class (C,) a first pass gives."""
        return torch.bincount(self.seen[1], minlength=len(self.classes))

    @cached_property
    def count(self) -> int:
        """How many rows a pass gives."""
        if self.tensors is not None:
            return len(self.tensors[1])
        if "seen" in vars(self):
            return int(self.counts.sum())
        return sum(len(y) for _, y in self.batches("look"))

    @cached_property
    def seen(self) -> tuple[Keys, Tensor]:
        """What a first pass gives, row by row: a key of the input (N,), the same for equal ones, and the
        label (N,)."""
        whole = self.tensors
        if whole is not None and len(whole[1]):
            return keys_of(whole[0]), whole[1].cpu()
        with unmoved(self.loader):
            keys, labels = zip(*((keys_of(x), y.cpu()) for x, y in self.batches("look")), strict=True)
        with closing(self.batches("look")) as second:
            try:
                x, _ = next(second)
            except DataError as error:
                again = str(error).removeprefix(str(self._error("")))
                raise self._error(f"its loader can be read only once; a second pass: {again}") from None
        if not np.array_equal(keys_of(x), keys[0]):
            warnings.warn(f"{self._error(_UNDECIDED)}", DataWarning, stacklevel=4)
        return np.concatenate(keys), torch.cat(labels)

    @cached_property
    def batch_size(self) -> int:
        """The largest batch that a pass gives."""
        known = [size for size in _sampled(self.loader, "batch_size") if isinstance(size, int)]
        return known[0] if known else max(len(y) for _, y in self.batches("look"))

    @cached_property
    def fingerprint(self) -> str | None:
        """SHA-256 over all that a pass gives, batch by batch; None if a second one of the same names gives
        something else. What the loader counts is afterwards what it was, as far as that can be."""
        if is_plain(self.loader):
            return self._hash()
        with unmoved(self.loader):
            first = self._hash()
            return first if first == self._hash() else None

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for batch in self.batches("fingerprint"):
            digest.update("".join(map(tensor_hash, batch)).encode())
        return digest.hexdigest()

    def _given(self, *names: object) -> Iterator[Any]:
        """The loader's batches as they come; what it raises becomes a ``DataError``."""
        draws, number = Draws(self.loader, *names, draws_elsewhere=not is_plain(self.loader)), 0
        spent, ends = 0.0, _length(self.loader)
        try:
            with draws.its():
                iterator = iter(self.loader)
            while True:
                began = monotonic()
                with draws.its():
                    batch = next(iterator, draws)
                if batch is draws:
                    return
                spent += monotonic() - began
                if spent > LONG and number >= ends:
                    self._warn_of_no_end(ends)
                    spent = -inf
                yield batch
                number += 1
        except (EideticError, MemoryError):
            raise
        except Exception as error:  # whatever a Dataset, a sampler or a collate_fn raises
            raise self._error(f"its loader failed at batch {number}: {blame(error)}") from error

    def _warn_of_no_end(self, ends: int) -> None:
        found = f"gives more than the {ends} batches of its length" if ends else "has no length"
        what = (
            f"its loader {found}, and a pass still goes on after {LONG:.0f} s; a pass has to end, so "
            "bound an endless stream, as by itertools.islice, and give a long one a __len__"
        )
        warnings.warn(str(self._error(what)), DataWarning, stacklevel=4)

    def _pair(self, batch: Any, place: Callable[[int], str]) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            collates = isinstance(self.loader, DataLoader)
            how = "use a collate_fn" if collates else "batches(x, y) makes a loader"
            raise self._error(f"its loader gives {_described(batch)}; expected batches (x, y): {how}")
        x, y = batch
        if _is_number(y) and isinstance(x, Tensor | np.ndarray) and x.shape == self.inputs.shape:
            raise self._error("its loader gives single rows; expected batches: batches(x, y) makes a loader")
        try:
            return pair(x, y, self.inputs, len(self.classes))
        except RowError as error:
            raise self._error(f"{place(error.row)}: {error.what}") from None
        except DataError as error:
            raise self._error(str(error)) from None

    def _place(self, number: int, batch: Any, row: int) -> str:
        """Where the row of a batch is in the dataset, if that can be told without reading it again."""
        found: Any = self.loader
        dataset: Any = getattr(found, "dataset", None)
        rows: Any = dataset.tensors[0] if type(dataset) in DATASETS else ()
        with suppress(Exception):  # a list may hold anything
            rows = [x for x, *_ in dataset] if isinstance(dataset, list | tuple) else rows
            wanted = as_tensor("x", batch[0])[row].nan_to_num()
            for index, x in enumerate(rows):
                if torch.equal(torch.as_tensor(x).nan_to_num(), wanted):
                    return f"row {index} of its dataset"
        stands = type(found) is DataLoader and type(found.sampler) is SequentialSampler
        if stands and found.batch_size and found.collate_fn is default_collate:
            return f"row {number * found.batch_size + row} of its dataset"
        return f"row {row} of batch {number}"

    def _error(self, what: str) -> DataError:
        where = f", {self.source}" if self.source else ""
        return DataError(f"task {self.task!r}{where}: {what}")


def _length(loader: Loader) -> int:
    """How many batches the loader says a pass has; 0 if it doesn't say."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except Exception:  # what has none, or counts on something that has none
        return 0


def _sampled(loader: Loader, name: str) -> list[Any]:
    """The attribute of the loader and its samplers, of those that have it."""
    owners = (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None))
    return [value for value in (getattr(owner, name, None) for owner in owners) if value is not None]


def _is_number(y: object) -> bool:
    return isinstance(y, int | float | np.generic) or (isinstance(y, Tensor | np.ndarray) and y.ndim == 0)


def _described(batch: Any) -> str:
    if isinstance(batch, list | tuple):
        return f"{len(batch)} things ({', '.join(type(part).__name__ for part in batch[:4])})"
    keys = f" with keys {', '.join(map(str, batch))}" if isinstance(batch, dict) else ""
    return f"batches of type {type(batch).__name__}{keys}"
