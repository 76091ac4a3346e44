"""TorchServe's management API: what it holds, and how that is changed."""

from __future__ import annotations

import json
import ssl
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from eideticnet.export.archive.contents import MANIFEST
from eideticnet.serving.engine import ANSWER_SECONDS, Drained, EngineError, HeldModel, HeldVersion, Worker
from eideticnet.serving.errors import NoAnswerError, RequestError, ServingError, WrongKeyError, no_answer
from eideticnet.serving.home.running import Profile
from eideticnet.serving.home.state import CLOSED, Version
from eideticnet.serving.key import Key
from eideticnet.serving.torchserve.drain import drain, replace_workers
from eideticnet.serving.torchserve.strangers import Strangers, plain
from eideticnet.serving.torchserve.words import Bearer, wrong_key

_MOST_MODELS = 1000
_BATCHING: dict[Profile, dict[str, int]] = {"throughput": {}, "latency": {"max_batch_delay": 0}}
"""What a profile overrides of the archive's batching, in milliseconds."""


class ManagementError(EngineError):
    """TorchServe refused, or did not answer: then ``status`` is 0, else the HTTP status. ``wrong_key`` says
    that it did not know the key."""

    def __init__(self, status: int, message: str, *, wrong_key: bool = False) -> None:
        silence = "answered nothing" if not status else ""
        super().__init__(message, "refused its own keys" if wrong_key else silence)
        self.status = status


class TorchServeManagement:
    """Implements ``Management``; ``key`` is the management token or the file that holds it, ``store`` the
    folder that TorchServe loads from. ``strangers`` takes the models whose names no path can hold."""

    def __init__(
        self,
        url: str,
        key: str | Path,
        strangers: Strangers,
        store: Path,
        *,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        auth = Bearer(Key(key, "management"))
        self._strangers, self._store = strangers, store
        self._http = httpx.Client(
            base_url=url, auth=auth, timeout=ANSWER_SECONDS, trust_env=False, verify=verify
        )

    def models(self, seconds: float = ANSWER_SECONDS) -> dict[str, HeldModel]:
        """All that TorchServe holds, by the model's name. Each answer may take ``seconds``."""
        listed = self._ask("GET", "/models", seconds, limit=_MOST_MODELS)["models"]
        found = (self.model(entry["modelName"], seconds) for entry in listed)
        return {entry["modelName"]: model for entry, model in zip(listed, found, strict=True) if model}

    def model(self, name: str, seconds: float = ANSWER_SECONDS) -> HeldModel | None:
        """One model, or None where TorchServe holds no version of it."""
        try:
            default = self._described(name, "", seconds)[0]["modelVersion"]
            versions = self._described(name, "all", seconds)
        except ManagementError as error:
            if error.status == 404:
                return None
            raise
        return HeldModel(default, {each["modelVersion"]: _version(each) for each in versions})

    def _described(self, name: str, version: str, seconds: float) -> Any:
        if plain(name):
            return self._ask("GET", f"/models/{name}" + (f"/{version}" if version else ""), seconds)
        with _as_ours(f"describing {name!r}"):
            return self._strangers.describe(name, version, seconds)

    def hold(self, name: str, version: Version, profile: Profile) -> None:
        """Begin to load an archive of the store, with one worker: TorchServe takes their number from the
        archive alone."""
        self._register(version.file, {"initial_workers": 1, **_BATCHING[profile]})

    def _register(self, file: str, parameters: Mapping[str, int], seconds: float = ANSWER_SECONDS) -> None:
        """That a version is there already is no error. Not synchronous: TorchServe would wait for the worker
        in a thread that also serves connections of clients, which then stood still for seconds."""
        try:
            self._ask("POST", "/models", seconds, url=file, synchronous="false", **parameters)
        except ManagementError as error:
            if error.status != 409:
                raise

    def scale(self, name: str, version: str, workers: int) -> None:
        """Begin to bring a version to ``workers`` workers."""
        self._ask("PUT", f"/models/{name}/{version}", min_worker=workers, max_worker=workers)

    def set_default(self, name: str, version: str, seconds: float = ANSWER_SECONDS) -> None:
        """Let ``version`` answer requests that name none, and read back that it does."""
        self._ask("PUT", f"/models/{name}/{version}/set-default", seconds)
        model = self.model(name, seconds)
        if model is None or model.default != version:
            found = "no version" if model is None else f"version {model.default}"
            raise ManagementError(200, f"TorchServe made {found} of {name} the default, not {version}")

    def forget(self, name: str, version: str) -> None:
        """Remove a version, whose workers end. That it is gone already is no error."""
        try:
            if plain(name, version):
                self._ask("DELETE", f"/models/{name}/{version}")
            else:
                with _as_ours(f"removing {name!r} {version!r}"):
                    self._strangers.unregister(name, version, ANSWER_SECONDS)
        except ManagementError as error:
            if error.status != 404:
                raise

    def refuse(self, name: str, seconds: float = ANSWER_SECONDS) -> None:
        """TorchServe can't be told to take no more requests, and under steady traffic it never falls quiet.
        So a version that has no worker becomes the default."""
        archive = self._store / f"{name}-{CLOSED}.mar"
        described = {"modelName": name, "modelVersion": CLOSED, "handler": "none.py"}
        try:
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr(MANIFEST, json.dumps({"runtime": "python", "model": described}))
            self._register(archive.name, {"initial_workers": 0}, seconds)
            self.set_default(name, CLOSED, seconds)
        except OSError as error:
            raise ServingError(f"{archive} can't be written: {error}") from error
        finally:
            archive.unlink(missing_ok=True)

    def drain(self, name: str, version: str, limit: float, seconds: float = ANSWER_SECONDS) -> Drained:
        """See ``drain.py``."""
        return drain(lambda: self._version(name, version, seconds), limit)

    def release(self, name: str, version: str, left: Drained) -> Drained:
        """See ``drain.py``."""
        return replace_workers(lambda: self._version(name, version), left)

    def _version(self, name: str, version: str, seconds: float = ANSWER_SECONDS) -> HeldVersion | None:
        model = self.model(name, seconds)
        return None if model is None else model.versions.get(version)

    def renew(self, kind: str, key: str) -> None:
        """Let TorchServe make a new token, "inference" or "management", which it writes into its file;
        ``key`` is the third one, which serves for this alone."""
        auth, parameters = Bearer(Key(key)), {"type": kind}
        try:
            response = self._http.get("/token", params=parameters, auth=auth)
        except httpx.HTTPError as error:
            raise ManagementError(0, str(no_answer("TorchServe's management API", error))) from error
        if not response.is_success:
            raise ManagementError(response.status_code, f"TorchServe makes no new {kind} key")

    def _ask(self, method: str, path: str, seconds: float = ANSWER_SECONDS, /, **parameters: Any) -> Any:
        what = f"{method} {path}"
        try:
            response = self._http.request(method, path, params=parameters, timeout=seconds)
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            said = str(no_answer(f"TorchServe's management API ({what})", error))
            raise ManagementError(0, said) from error
        if response.is_success:
            return body
        reason = body.get("message", body) if isinstance(body, dict) else body
        raise ManagementError(
            response.status_code, f"TorchServe refused {what}: {reason}", wrong_key=wrong_key(response)
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> TorchServeManagement:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def _as_ours(what: str) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        known = not isinstance(error, WrongKeyError)
        raise ManagementError(error.status, f"{what}: {error}", wrong_key=not known) from error
    except (NoAnswerError, OSError) as error:
        raise ManagementError(0, f"{what}: {error}") from error


def _version(described: Mapping[str, Any]) -> HeldVersion:
    workers = tuple(Worker(int(w["pid"]), w["status"] == "READY") for w in described["workers"])
    pending = int(described["jobQueueStatus"]["pendingRequests"])
    return HeldVersion(described["modelUrl"], int(described["minWorkers"]), workers, pending)
