"""The application on a cluster: what all of its replicas are to hold, and what they say that they do.

That is written into the cluster's memory, where a replica that starts finds it, and those that run are told
to look. What each of them holds is asked of each, so "all have swapped" is known and not supposed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from eideticnet.serving.engine import HeldModel, HeldVersion, Worker
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.state import CLOSED, Version
from eideticnet.serving.ray import memory
from eideticnet.serving.ray.deployment import NAME
from eideticnet.serving.ray.desired import MEMORY, Desired, Source, Wanted
from eideticnet.serving.ray.settings import APPLICATION, Settings

log = logging.getLogger("eidetic.application")

_IMPORT_PATH = "eideticnet.serving.ray:app"
_PAUSE_SECONDS = 0.05
_ANSWER_SECONDS = 5.0
"""For each answer of a replica; one that is gone says so at once."""
_ONGOING = 8
"""Requests in flight at each replica that are aimed at, where their number follows the load."""

Report = Mapping[str, Any]


@dataclass
class Application:
    """That of one server. Its methods may be called by several threads, and raise ``ServingError``."""

    settings: Settings
    _workers: int = 0
    _desired: Desired = field(default_factory=Desired)
    _changing: threading.RLock = field(default_factory=threading.RLock)

    def begin(self) -> None:
        """Run it, or go on with the one that runs: what a cluster serves stays while its server starts
        again."""
        before = memory.desired(APPLICATION) or Desired()
        token = sha256(self.settings.keys.inference.encode()).hexdigest()
        update = {"token_sha256": token, "allow_torch": self.settings.allow_torch}
        self._apply(before.reopened().model_copy(update=update))
        self.scale(self.settings.workers)

    def hold(self, name: str, version: str, file: str, sha256: str) -> None:
        """Begin to load an archive of the store everywhere. The first of a model is its default."""
        path = Path(self.settings.store) / Version(version=version, file=file, sha256=sha256).file
        source = Source(archive=str(path), sha256=sha256)
        if not self.settings.shared:
            source = Source(archive=f"{MEMORY}:{file}", sha256=sha256)
        with self._changing:  # while archives that nothing needs are let go
            if not self.settings.shared:
                memory.put_archive(APPLICATION, sha256, path.read_bytes())
            model = self._desired.models.get(name) or Wanted(default=version)
            versions = {**model.versions, version: source}
            self._apply(self._desired.with_model(name, Wanted(default=model.default, versions=versions)))

    def scale(self, workers: int) -> None:
        """Begin to bring the number of replicas, which hold all models, to ``workers``."""
        with self._changing:
            if workers != self._workers:
                self._workers = workers
                self._deploy()

    def set_default(self, name: str, version: str, seconds: float) -> None:
        """Let a version answer who names none, everywhere, within ``seconds``."""
        with self._changing:
            model = self._desired.models.get(name)
            if model is None or version not in (CLOSED, *model.versions):
                raise ServingError(f"no {name} {version} is held here, so it can't be the default")
            self._apply(self._desired.with_model(name, model.model_copy(update={"default": version})))
        self._wait(lambda report: _default(report, name) == version, [name, version], seconds)

    def forget(self, name: str, version: str, seconds: float) -> None:
        """Let a version go everywhere."""
        with self._changing:
            self._apply(self._desired.without(name, version))
        self._wait(lambda report: version not in _versions(report, name), [], seconds)

    def models(self, seconds: float) -> dict[str, HeldModel]:
        """What is held: of each version those replicas that have it are its workers."""
        desired = self._desired
        reports = [each for each in self._ask("report", seconds) if isinstance(each, dict)]
        found = {}
        for name, model in desired.models.items():
            versions = {
                label: self._version(name, label, source, reports) for label, source in model.versions.items()
            }
            if model.default == CLOSED:
                versions[CLOSED] = HeldVersion("", 0)
            others = {_default(report, name) for report in reports} - {model.default, ""}
            found[name] = HeldModel(min(others, default=model.default), versions)
        return found

    def _version(self, name: str, label: str, source: Source, reports: Sequence[Report]) -> HeldVersion:
        held = [(report, _versions(report, name).get(label)) for report in reports]
        mine = [(report, each) for report, each in held if each and each["sha256"] == source.sha256]
        told = {text for r in reports for *key, text in r["problems"] if key == [name, label]}
        workers = tuple(Worker(report["pid"], True) for report, _ in mine)
        waiting = sum(each["waiting"] for _, each in mine)
        return HeldVersion(source.file, self._workers, workers, waiting, "; ".join(sorted(told)))

    def _apply(self, desired: Desired) -> None:
        if desired == self._desired:
            return
        memory.put_desired(APPLICATION, desired)
        self._desired = desired
        memory.keep_archives(APPLICATION, {source.sha256 for _, _, source in desired.sources()})
        self._ask("look", _ANSWER_SECONDS)

    def _deploy(self) -> None:
        """Other applications of the cluster are handed back as they were found."""
        deployment: dict[str, Any] = {"name": NAME, "user_config": {"follow": APPLICATION}}
        if self.settings.most > self._workers:
            scaling = {"min_replicas": self._workers, "max_replicas": self.settings.most}
            deployment["autoscaling_config"] = {**scaling, "target_ongoing_requests": _ONGOING}
        else:
            deployment["num_replicas"] = self._workers
        ours = {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": _IMPORT_PATH,
            "deployments": [deployment],
        }
        client = _get_global_client()
        assert client is not None  # as it raises where Serve does not run
        found = client.get_serve_details().get("applications", {})
        others = [app["deployed_app_config"] for name, app in found.items() if name != APPLICATION]
        schema = {"applications": [*filter(None, others), ours]}
        client.deploy_apps(ServeDeploySchema.model_validate(schema))

    def _ask(self, method: str, seconds: float) -> list[Any]:
        """What each replica says that answers."""
        try:
            asked = serve.get_app_handle(APPLICATION).broadcast(method)
            return asked.results(timeout_s=min(seconds, _ANSWER_SECONDS), return_exceptions=True)
        except Exception as error:  # no replica yet, or a controller that starts again
            log.info("no replica answers: %s", error)
            return []

    def _wait(self, done: Callable[[Report], bool], needed: list[str], seconds: float) -> None:
        """Until all replicas are ``done``. One that is silent may not be; one that can't hold the model and
        version that are ``needed`` never will."""
        deadline = time.monotonic() + seconds
        while True:
            answers = self._ask("report", seconds)
            reports = [each for each in answers if isinstance(each, dict)]
            silent = sum(isinstance(each, TimeoutError) for each in answers)
            if reports and not silent and all(map(done, reports)):
                return
            problems = {text for report in reports for *key, text in report["problems"] if key == needed}
            if problems:
                raise ServingError(f"a replica can't hold what it is to: {'; '.join(sorted(problems))}")
            if time.monotonic() > deadline:
                there, all_ = sum(map(done, reports)), len(reports) + silent
                raise ServingError(f"{there} of {all_} replicas have changed after {seconds:.0f} s")
            time.sleep(_PAUSE_SECONDS)


def _default(report: Report, name: str) -> str:
    return str(report["models"].get(name, {}).get("default", ""))


def _versions(report: Report, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = report["models"].get(name, {}).get("versions", {})
    return found
