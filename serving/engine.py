"""What serving needs of an engine: a program that holds versions of models, and answers requests to them.

Deploys, supervisor and command line know an engine by these three protocols alone. An ``Engine`` is one kind
of such programs with its settings; a ``Process`` is one that was started, as its supervisor has it;
``Management`` is what any process of this machine can ask of it, and change.

Whatever the engine, it answers ``POST /predictions/MODEL[/VERSION]`` with the token for inference, loads
archives from the home's store alone, and its workers find the variables that it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import Network, Ports
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Profile, Running
from eideticnet.serving.home.state import Version

ANSWER_SECONDS = 30.0
"""How long an engine may take for each answer about what it holds, unless told otherwise."""


class EngineError(ServingError):
    """An engine refused, or did not answer. ``silence`` is what it did instead, as "answered nothing"; it is
    "" where it answered, since a refusal is a sign of life."""

    def __init__(self, message: str, silence: str = "") -> None:
        super().__init__(message)
        self.silence = silence


@dataclass(frozen=True)
class Worker:
    """One worker process. ``pid`` is not above 0 while it is being started."""

    pid: int
    ready: bool


@dataclass(frozen=True)
class HeldVersion:
    """One version that an engine holds: its archive's name in the store, how many workers it is to have,
    those that there are, how many requests wait for them, and why a worker can't be had, where that is
    known."""

    file: str
    wanted: int
    workers: tuple[Worker, ...] = ()
    pending: int = 0
    problem: str = ""

    @property
    def ready(self) -> int:
        return sum(worker.ready for worker in self.workers)


@dataclass(frozen=True)
class HeldModel:
    """A model that an engine holds: its versions, and which of them answers who names none."""

    default: str
    versions: Mapping[str, HeldVersion]


@dataclass(frozen=True)
class Drained:
    """How a drain ended. ``pending`` requests and ``busy`` workers were left; none where ``empty``."""

    seconds: float
    pending: int
    busy: int

    @property
    def empty(self) -> bool:
        return not self.pending and not self.busy

    def __str__(self) -> str:
        return f"{self.pending} waiting, {self.busy} workers busy"

    def to_json(self) -> dict[str, Any]:
        return {"empty": self.empty, **asdict(self)}


class Management(Protocol):
    """What an engine holds, and how that is changed. What is asked for twice is done once, and no error. An
    engine may take ``seconds`` for each answer. All methods raise ``EngineError``."""

    def models(self, seconds: float = ANSWER_SECONDS) -> Mapping[str, HeldModel]:
        """All that it holds, by the model's name, given by any process."""

    def model(self, name: str, seconds: float = ANSWER_SECONDS) -> HeldModel | None:
        """One model, or None where it holds no version of it."""

    def hold(self, name: str, version: Version, profile: Profile) -> None:
        """Begin to load a version from the store. The first of a model is its default."""

    def scale(self, name: str, version: str, workers: int) -> None:
        """Begin to bring a version to ``workers`` workers."""

    def set_default(self, name: str, version: str) -> None:
        """Let a version answer requests that name none. Requests that are on their way are answered."""

    def refuse(self, name: str, seconds: float = ANSWER_SECONDS) -> None:
        """Take no more work: who asks for ``name`` and no version of it gets a 503 at once, and what was
        begun goes on. The version ``CLOSED``, without workers, is the default from then on."""

    def drain(self, name: str, version: str, limit: float, seconds: float = ANSWER_SECONDS) -> Drained:
        """Wait until nothing of a version is waiting or being answered, ``limit`` seconds at most."""

    def release(self, name: str, version: str, left: Drained) -> Drained:
        """End the workers that a drain ``left`` at work, so that who waits for them gets an answer."""

    def forget(self, name: str, version: str) -> None:
        """Let a version go, with its workers. The default goes only as the last of its model."""


class Process(Protocol):
    """A started engine. ``folder`` is its private one in the home, ``pid`` also that of its process group."""

    @property
    def pid(self) -> int: ...

    @property
    def folder(self) -> Path: ...

    @property
    def running(self) -> bool: ...

    def ready(self, running: Running, seconds: float) -> None:
        """Wait until it can be told what to hold, and clients find its tokens where ``running`` says.
        ``ServingError`` if it ends before, or takes longer."""

    def tend(self) -> None:
        """Keep the tokens fresh, and right the files in which clients find them. Called once a second."""

    def damaged(self) -> str:
        """What it lacks to start a worker or load a version, in a sentence; "" if nothing."""

    def last_words(self, seconds: float = 1.0) -> str:
        """The last lines that it printed: all of them if it ends within ``seconds``."""


@dataclass(frozen=True)
class Setup:
    """What an engine is started with: ``variables`` for the environment of its workers, and ``room`` for so
    many bytes of archives. It writes its tokens to ``keys``, and the one for inference as a header to
    ``header``; while it changes them, inside ``waiting``, no request comes."""

    home: Home
    network: Network
    ports: Ports
    variables: Mapping[str, str]
    keys: Path
    header: Path
    room: int = 0
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext


class Engine(Protocol):
    """A kind of engine, and how it is set up. ``name`` is what messages call it; ``error_schema`` describes,
    as JSON Schema, what its front end answers before a model is asked."""

    @property
    def name(self) -> str: ...

    @property
    def error_schema(self) -> Mapping[str, Any]: ...

    def check(self, network: Network) -> list[str]:
        """Warnings about these addresses and this certificate; ``ServingError`` where it can't use
        them."""

    def check_place(self, root: Path, room: int) -> None:
        """``Unavailable`` where it can't have its private folder, in ``root``, for ``room`` bytes of
        archives."""

    def start(self, setup: Setup) -> AbstractContextManager[Process]:
        """Start it without models. Leaving the context stops all of its processes and removes the files that
        it made; if this process is killed, the kernel ends it."""

    def manage(self, home: Home, running: Running) -> AbstractContextManager[Management]:
        """The management of one that runs, also when it has other keys later."""
