"""TorchServe's management API: what it holds, and how that is changed."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from eideticnet.client.key import Key
from eideticnet.serving.bearer import Bearer, wrong_key
from eideticnet.serving.errors import NoAnswerError, RequestError, ServingError, WrongKeyError
from eideticnet.serving.strangers import Strangers, plain

_SECONDS = 30.0
_MOST_MODELS = 1000


class ManagementError(ServingError):
    """TorchServe refused, or did not answer: then ``status`` is 0, else the HTTP status. ``wrong_key`` says
    that it did not know the key."""

    def __init__(self, status: int, message: str, *, wrong_key: bool = False) -> None:
        super().__init__(message)
        self.status, self.wrong_key = status, wrong_key


@dataclass(frozen=True)
class Worker:
    """One worker process, as TorchServe sees it."""

    pid: int
    ready: bool


@dataclass(frozen=True)
class HeldVersion:
    """One version that TorchServe holds: its archive's name in the store, how many workers it is to
    have, those that there are, and how many requests wait for them."""

    file: str
    wanted: int
    workers: tuple[Worker, ...] = ()
    pending: int = 0

    @property
    def ready(self) -> int:
        return sum(worker.ready for worker in self.workers)


@dataclass(frozen=True)
class HeldModel:
    """A model that TorchServe holds: its versions, and which of them answers."""

    default: str
    versions: Mapping[str, HeldVersion]


class Management:
    """A client of the API; ``key`` is the management token or the file that holds it. ``strangers`` takes
    the models whose names no path can hold. Its methods raise ``ManagementError``."""

    def __init__(
        self, url: str, key: str | Path, strangers: Strangers, *, verify: ssl.SSLContext | bool = True
    ) -> None:
        auth = Bearer(Key(key, "management"))
        self._strangers = strangers
        self._http = httpx.Client(base_url=url, auth=auth, timeout=_SECONDS, trust_env=False, verify=verify)

    def models(self, seconds: float = _SECONDS) -> dict[str, HeldModel]:
        """All that TorchServe holds, by the model's name. Each answer may take so many seconds."""
        listed = self._ask("GET", "/models", seconds, limit=_MOST_MODELS)["models"]
        found = (self.model(entry["modelName"], seconds) for entry in listed)
        return {entry["modelName"]: model for entry, model in zip(listed, found, strict=True) if model}

    def model(self, name: str, seconds: float = _SECONDS) -> HeldModel | None:
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

    def register(self, file: str, batching: Mapping[str, int], seconds: float = _SECONDS) -> None:
        """Begin to load the archive ``file`` of the store.

        ``batching`` overrides what the archive says. That a version is there already is no error. Not
        synchronous: TorchServe would wait for the worker in a thread that also serves connections of
        clients, which then stood still for seconds.
        """
        parameters = {"url": file, "initial_workers": 1, "synchronous": "false", **batching}
        try:
            self._ask("POST", "/models", seconds, **parameters)
        except ManagementError as error:
            if error.status != 409:
                raise

    def scale(self, name: str, version: str, workers: int) -> None:
        """Begin to bring a version to so many workers. TorchServe takes the number at registration from
        the archive alone."""
        self._ask("PUT", f"/models/{name}/{version}", min_worker=workers, max_worker=workers)

    def set_default(self, name: str, version: str, seconds: float = _SECONDS) -> None:
        """Let ``version`` answer requests that name none, and read back that it does."""
        self._ask("PUT", f"/models/{name}/{version}/set-default", seconds)
        model = self.model(name, seconds)
        if model is None or model.default != version:
            found = "no version" if model is None else f"version {model.default}"
            raise ManagementError(200, f"TorchServe made {found} of {name} the default, not {version}")

    def unregister(self, name: str, version: str) -> None:
        """Remove a version, whose workers end. That it is gone already is no error."""
        try:
            if plain(name, version):
                self._ask("DELETE", f"/models/{name}/{version}")
            else:
                with _as_ours(f"removing {name!r} {version!r}"):
                    self._strangers.unregister(name, version, _SECONDS)
        except ManagementError as error:
            if error.status != 404:
                raise

    def renew(self, kind: str, key: str) -> None:
        """Let TorchServe make a new token, "inference" or "management", which it writes into its file;
        ``key`` is the third one, which serves for this alone."""
        auth, parameters = Bearer(Key(key)), {"type": kind}
        try:
            response = self._http.get("/token", params=parameters, auth=auth)
        except httpx.HTTPError as error:
            raise ManagementError(0, f"no answer from TorchServe's management API: {error!r}") from error
        if not response.is_success:
            raise ManagementError(response.status_code, f"TorchServe makes no new {kind} key")

    def _ask(self, method: str, path: str, seconds: float = _SECONDS, /, **parameters: Any) -> Any:
        what = f"{method} {path}"
        try:
            response = self._http.request(method, path, params=parameters, timeout=seconds)
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ManagementError(
                0, f"no answer from TorchServe's management API ({what}): {error!r}"
            ) from error
        if response.is_success:
            return body
        reason = body.get("message", body) if isinstance(body, dict) else body
        raise ManagementError(
            response.status_code, f"TorchServe refused {what}: {reason}", wrong_key=wrong_key(response)
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Management:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
