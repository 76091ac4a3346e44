"""Another version takes over while requests are being answered; or everything stays as it was.

A deploy is a list of steps, each taken when the caller asks for it. Up to the commit, which is the writing
of ``state.json``, whatever ends it leaves the old version: ``reconcile`` removes the new one, here or, if
this process is killed, in the supervisor. After the commit ``reconcile`` finishes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eideticnet.export.archive.reader import Archive
from eideticnet.export.archive.signature import check_signature
from eideticnet.export.errors import ArchiveError
from eideticnet.export.proof.verify import Proof
from eideticnet.serving.deploys.compiling import COMPILED, compiled, remove_unneeded_graphs
from eideticnet.serving.deploys.connection import Connection
from eideticnet.serving.deploys.plan import Drain, Probe, Register, Scale, SetDefault, Unregister
from eideticnet.serving.deploys.policy import Policy, Refused, enforce, judge
from eideticnet.serving.deploys.reconcile import Done, perform, reconcile, settle
from eideticnet.serving.deploys.shadow import ShadowPolicy, shadow
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.files import write_whole
from eideticnet.serving.home.state import CLOSED, State, Version
from eideticnet.serving.home.store import admit, remove_unneeded

GATE_SECONDS = 30.0


@dataclass(frozen=True)
class DeployStep:
    """A step that was taken: its name, what to tell about it, and what is kept of it."""

    name: str
    text: str
    found: dict[str, Any] = field(default_factory=dict)
    proof: Proof | None = None


def deploy(
    server: Connection, source: Path, policy: Policy, shadowing: ShadowPolicy | None = None, name: str = ""
) -> Generator[DeployStep]:
    """Let the archive ``source`` take over, if it is proven to forget nothing.

    ``Refused`` says why it may not; ``ServingError`` what failed. Then the old version answers as before.
    """
    with server.home.changing():
        before = _settled(server)
        state = before.trusting(policy.trusted)
        torch = server.running.allow_torch
        stored = admit(source, server.home.store, allow_torch=torch, trusted=state.trusted)
        server = server.for_one_change({stored.version: stored.archive})
        try:
            model, version = stored.archive.name, stored.version
            if name and name != model:
                raise ServingError(f"{source} is of model {model}, not of {name}")
            _check_new(state, model, version, policy, server.engine.name)
            if policy.trusted:
                _check_others(server, state, model)
            yield DeployStep("admit", f"{source.name} is sound: {model} {version.version}")
            old = state.models.get(model)
            if old is None:
                yield DeployStep("prove", f"nothing to prove: no {model} was served before")
            else:
                served = server.archive(model, old.default)
                report = judge(stored, served.path, policy)
                text = f"{report.verdict}: {version.version} against {old.default.version}"
                known = {served.path: old.default.sha256, stored.archive.path: version.sha256}
                yield DeployStep("prove", text, {"proof": report.to_json(known)}, report)
                enforce(report, policy)
            yield from _compiled(server, version, stored.archive)
            yield from _take_over(server, before, state.replaced(model, version), model, shadowing)
        finally:
            remove_unneeded(server.home.store, server.state())
            remove_unneeded_graphs(server.home, server.state())


def rollback(server: Connection, name: str = "") -> Generator[DeployStep]:
    """Let the version before take over again; what it answers was proven, or accepted, then."""
    with server.home.changing():
        server = server.for_one_change({})
        state = _settled(server)
        model = state.only(name)
        previous = state.models[model].previous
        if previous is None:
            raise ServingError(f"{model} has no version before {state.models[model].default.version}")
        archive = server.archive(model, previous, revoked=False)
        yield DeployStep("admit", f"{previous.file} is as it was")
        yield from _compiled(server, previous, archive)
        yield from _take_over(server, state, state.replaced(model, previous), model, None)


def remove(server: Connection, name: str) -> Generator[DeployStep]:
    """Serve a model no more, once what it has begun is answered. Who asks meanwhile gets a 503, and then a
    404. From the commit on it is finished, even if the command is interrupted."""
    with server.home.changing():
        state = _settled(server)
        model = state.only(name)
        wanted = state.without(model)
        wanted.write(server.home.state)
        yield DeployStep("commit", f"{model} is not to be served any more")
        try:
            server.management.refuse(model, GATE_SECONDS)
            for done in reconcile(server, wanted):
                if done.action not in (Drain(model, CLOSED), Unregister(model, CLOSED)):
                    yield _told(done)
        finally:
            remove_unneeded(server.home.store, wanted)
            server.home.example(model).unlink(missing_ok=True)


def _settled(server: Connection) -> State:
    """The state, once the engine holds nothing else: an earlier deploy may have been killed."""
    state = server.state()
    settle(server, state)
    return state


def _check_new(state: State, name: str, version: Version, policy: Policy, engine: str) -> None:
    model, served = state.models.get(name), ", ".join(sorted(state.models))
    if model is None and not policy.new_model:
        raise ServingError(
            f"{name} would be a new model beside what is served here ({served}): --new-model serves it, "
            "without a proof; a new version of a model has that model's name (eidetic export --name)"
        )
    if model is not None and policy.new_model:
        raise ServingError(f"{name} is served here already: a new version of it takes no --new-model")
    if model is None or model.default.version != version.version:
        return
    if model.default.sha256 == version.sha256:
        raise ServingError(f"{name} {version.version} is what is served already")
    raise ServingError(
        f"{name} is served as version {version.version} already, from an archive with other bytes, and "
        f"{engine} can't hold two of one version: build the new one with another --model-version"
    )


def _check_others(server: Connection, state: State, name: str) -> None:
    """``ArchiveError`` unless the other models that are served are signed as all are to be from now on: none
    of them could be started again."""
    for other, model in state.models.items():
        if other != name:
            check_signature(server.home.store / model.default.file, state.trusted)


def _compiled(server: Connection, version: Version, archive: Archive) -> Iterator[DeployStep]:
    if server.running.compile and archive.bundle.format == COMPILED:
        yield DeployStep("compile", compiled(server.home, version, archive))


def _take_over(
    server: Connection, before: State, wanted: State, name: str, shadowing: ShadowPolicy | None
) -> Iterator[DeployStep]:
    """Load and try the version of ``name`` that is ``wanted``, commit, and let the old one go; all is as it
    was ``before``, also who is trusted, where that fails."""
    version = wanted.models[name].default
    new, label = f"{name} {version.version}", version.version
    try:
        perform(server, Register(name, version))
        perform(server, Scale(name, label, server.running.workers))
        yield DeployStep("register", f"{new} is loading")
        perform(server, Probe(name, version))
        yield DeployStep("probe", f"{new} answers its probes")
        old = before.models.get(name)
        if shadowing is not None and old is not None:
            compared = shadow(server.prober, server.archive(name, old.default), label, shadowing)
            yield DeployStep("shadow", compared.summary(), {"shadow": compared.to_json()})
            if compared.too_many(shadowing):
                raise Refused(f"too many answers differ: {compared.summary()}")
        wanted.write(server.home.state)
        yield DeployStep("commit", f"{new} is what is to be served")
        for done in reconcile(server, wanted):
            yield _told(done)
    except BaseException as error:
        _restore(server, before if isinstance(error, (ServingError, ArchiveError)) else None)
        raise


def _restore(server: Connection, state: State | None) -> None:
    """Bring the engine to the state of before, or, after an interruption, to what was committed.

    If it does not answer, the supervisor does it as soon as it does.
    """
    with suppress(ServingError, ArchiveError):
        if state is not None and server.state() != state:
            state.write(server.home.state)
        settle(server, server.state())


def _told(done: Done) -> DeployStep:
    action, version = done.action, done.action.version
    which = f"{action.model} {version.version if isinstance(version, Version) else version}"
    match action:
        case SetDefault():
            return DeployStep("set-default", f"{which} answers")
        case Drain():
            assert done.drained is not None
            left = done.drained
            how = "has nothing left to do" if left.empty else f"was still at work: {left}"
            return DeployStep("drain", f"{which} {how}", {"drained": left.to_json()})
        case Unregister():
            return DeployStep("unregister", f"{which} is gone")
        case Probe():
            return DeployStep("probe", f"{which} answers its probes")
        case Register():
            return DeployStep("register", f"{which} is loading")
        case Scale():
            return DeployStep("scale", f"{which} gets {action.workers} workers")


@dataclass
class DeployReport:
    """What is kept of a deploy: every step with its time, what was proven, how it ended. Filled while it
    goes on, and written at its end, however it ends."""

    what: str
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    found: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def add(self, name: str, text: str, found: dict[str, Any]) -> None:
        """Note a step that was taken, and what it found."""
        self.steps.append({"step": name, "seconds": round(self.seconds, 3), "text": text})
        self.found |= found

    def write(self, folder: Path, outcome: str) -> Path:
        """The JSON file; its name says when the deploy began."""
        path = folder / f"{self.what}-{self.began:%Y%m%dT%H%M%S.%fZ}.json"
        head = {"what": self.what, "began": self.began.isoformat(), "outcome": outcome}
        body = {**head, **self.found, "steps": self.steps}
        write_whole(path, json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n")
        return path
