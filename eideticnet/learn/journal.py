"""A journal: what a training job has done so far, so that one that was interrupted goes on from there.

Everything random is a function of names, so a job that is begun again takes the same course. The
journal remembers small results (accuracies, losses, which neurons stay) in the order in which they
came up, and gives them out instead of having them computed. After the last one that it knows, it
puts the stored tensors into the module and the optimizer that are in use by then, and the job
goes on for real. So the algorithms that keep a journal stay plain code, under one rule: what
costs time or depends on trained weights goes through ``value`` or ``epoch``, and what is trained is
tracked.

The file is one safetensors file: tensors, and JSON with the records as one more tensor of bytes. It is
replaced as a whole; one that is damaged or belongs to something else is not used, with a notice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from eideticnet.errors import DataError
from eideticnet.files import write_whole
from eideticnet.hashing import json_hash, tensor_hash
from eideticnet.learn.states import NotStorableError, pack, state_of, unpack
from eideticnet.turns import Turns
from eideticnet.users_code import blame

Result = TypeVar("Result")
Record = list[Any]
"""Kind and result."""

_CONTENT = "journal"
_MOST_TIME = 20
"""Snapshots of a large network are rarer: they take no more than a twentieth of the time."""


class Stateful(Protocol):
    """A module, an optimizer, or what else has a state."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class _MismatchError(Exception):
    """The job took another course than the one in the journal."""


class Journal:
    """The journal of one job at a time, in the file ``path``; without one it keeps nothing.

    Snapshots are written after training epochs and when a phase begins, at most every ``interval``
    seconds; ``say`` is told, in a line of text, what the user may want to know. A folder that can't be
    written to costs the journal, not the job. Call ``remove`` once what was learned is saved.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        *,
        interval: float = 5.0,
        say: Callable[[str], Any] = lambda line: None,
    ) -> None:
        if isinstance(interval, str) or not interval >= 0 or not callable(say):
            raise DataError(
                f"a journal has an interval of 0 seconds or more, not {interval!r}, and a function that is "
                f"told lines of text, not {say!r:.40}"
            )
        self.path = None if path is None else Path(path)
        self.interval = interval
        self.say = say
        self._key, self._turns = "", Turns("journal")
        self._start([], {}, {})

    def _start(self, records: list[Record], shapes: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._records, self._position = records, 0
        self._stored = (shapes, tensors)
        self._tracked: dict[str, Stateful] = {}
        self._last, self._wait, self._warned = time.monotonic(), self.interval, set[str]()

    # -- for the algorithms --------------------------------------------------------------------

    def value(self, compute: Callable[[], Result]) -> Result:
        """``compute()``, which JSON can hold, or what it was the first time."""
        found: Result = self._next("value", compute)
        return found

    def epoch(self, compute: Callable[[], float]) -> float:
        """The loss of one epoch in which tracked objects are trained, or what it was then."""
        return float(self._next("epoch", compute))

    def phase(self, name: str) -> None:
        """A phase begins: training goes on here if its optimizer can't be stored."""
        self._next("phase", lambda: name)

    @contextmanager
    def tracking(self, **objects: Stateful) -> Iterator[None]:
        """Let snapshots hold the state of these, by name, while the context lasts."""
        self._tracked.update(objects)
        try:
            yield
        finally:
            for name in objects:
                self._tracked.pop(name, None)

    def run(self, key: Callable[[], str], work: Callable[[], Result]) -> Result:
        """Do ``work``, going on where the journal ends if it was kept under the same ``key()``."""
        if self.path is None:
            return work()
        with self._turns.take(f"a training job kept in {self.path}"):
            self._key = key()
            self._start(*self._read(self.path))
            try:
                return work()
            except _MismatchError as error:
                self.say(f"{self.path} does not fit ({error}); starting this training job from its beginning")
                self._start([], {}, {})
                return work()
            finally:
                self._tracked = {}

    def remove(self) -> None:
        """Forget the job: it is over, and what came of it is saved."""
        self._start([], {}, {})
        if self.path is not None:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                self.say(f"can't remove {self.path}: {error}")

    # -- records -------------------------------------------------------------------------------

    def _next(self, kind: str, compute: Callable[[], Any]) -> Any:
        """The next result: remembered if there is one, computed and remembered if not."""
        if self.path is None:
            return compute()
        if self._position < len(self._records):
            found, result = self._records[self._position]
            if found != kind:
                raise _MismatchError(f"{kind} where it has {found}")
            self._position += 1
            if self._position == len(self._records):
                self._restore()
            return result
        result = compute()
        self._records.append([kind, result])
        self._position += 1
        if kind != "value" and time.monotonic() - self._last >= self._wait:
            self._write(self.path)
        return result

    def _restore(self) -> None:
        shapes, tensors = self._stored
        if set(shapes) != set(self._tracked):
            raise _MismatchError(f"{sorted(self._tracked)} where it has {sorted(shapes)}")
        try:
            for name, tracked in self._tracked.items():
                tracked.load_state_dict(unpack(shapes[name], tensors))
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise _MismatchError(f"state of {name}: {error}") from error
        self._stored = ({}, {})
        epochs = sum(kind == "epoch" for kind, _ in self._records)
        self.say(f"going on after {epochs} epochs that were done before the interruption")

    # -- the file ------------------------------------------------------------------------------

    def _write(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        start = time.monotonic()
        try:
            shapes = {name: pack(state_of(t), name, tensors) for name, t in self._tracked.items()}
            content = json.dumps({"key": self._key, "records": self._records, "shapes": shapes})
            tensors[_CONTENT] = torch.frombuffer(bytearray(content.encode()), dtype=torch.uint8)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, safetensors.save(tensors, {"sha256": _hash(tensors)}))
        except NotStorableError as error:
            self._warn(f"{error}; an interrupted run will go on at the start of the phase")
            return  # not counted as written, so that the next phase is
        except (OSError, SafetensorError) as error:
            self._warn(f"can't write {path}: {error}; an interruption would cost what is not saved")
        self._last = time.monotonic()
        if self.interval:
            self._wait = max(self.interval, _MOST_TIME * (self._last - start))

    def _read(self, path: Path) -> tuple[list[Record], dict[str, Any], dict[str, Tensor]]:
        """Records, shapes and tensors of the journal; empty ones unless it is whole and of this training
        job."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata["sha256"] != _hash(tensors):
                raise ValueError("its checksum differs")
            content = json.loads(bytes(tensors.pop(_CONTENT).tolist()))
            if content["key"] == self._key:
                return content["records"], content["shapes"], tensors
            self.say(f"{path} is about another training job and is not used")
        except FileNotFoundError:
            pass
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            self.say(f"can't use {path}: {blame(error)}; starting this training job from its beginning")
        return [], {}, {}

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            self.say(line)


def _hash(tensors: dict[str, Tensor]) -> str:
    return json_hash({name: tensor_hash(tensor) for name, tensor in tensors.items()})
