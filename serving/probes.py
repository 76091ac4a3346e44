"""A version's own probes, sent to it over HTTP: what it means that a version answers.

TorchServe's ``/ping`` says Healthy while every worker dies at import, and a prediction that is
sent then hangs, so each try has a short limit of its own.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from export.archive import Archive
from serving.errors import ServingError

SHADOW = {"eidetic-shadow": "1"}
"""The header of requests that nobody sent: the server does not record them."""
_PAUSE_SECONDS = 0.05


class ProbeError(ServingError):
    """A version did not answer, or answered wrongly."""


class Prober:
    """Sends requests that are not recorded; ``key`` is the inference token."""

    def __init__(
        self, url: str, key: str, *, verify: ssl.SSLContext | bool = True, seconds: float = 5.0
    ) -> None:
        headers = {"Authorization": f"Bearer {key}", **SHADOW}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=seconds, trust_env=False, verify=verify
        )

    def ask(self, name: str, version: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of one version, of the default where ``version`` is empty; else ``ProbeError``,
        and ``ServingError`` at once where nobody listens."""
        path = f"/predictions/{name}" + (f"/{version}" if version else "")
        try:
            response = self._http.post(path, json=request)
            answer = response.json()
        except httpx.ConnectError as error:
            raise ServingError(f"TorchServe's front end is gone: {error!r}") from error
        except (httpx.HTTPError, ValueError) as error:
            raise ProbeError(f"{name} {version} gave no answer: {error!r}") from error
        if response.status_code != 200 or not isinstance(answer, dict):
            raise ProbeError(f"{name} {version} answered {response.status_code}: {str(answer)[:300]}")
        return answer

    def check(self, archive: Archive, version: str = "") -> None:
        """One routed probe of the first task."""
        self._checked(archive, version, example_request(archive))

    def check_all(self, archive: Archive) -> None:
        """One probe of every task, pinned to it, and a routed one."""
        for request in _requests(archive):
            self._checked(archive, archive.version, request)

    def wait(self, archive: Archive, seconds: float) -> None:
        """Until ``check_all`` passes; ``ProbeError`` with the last problem after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.check_all(archive)
            except ProbeError as error:
                if time.monotonic() > deadline:
                    what = (
                        f"{archive.name} {archive.version} did not answer its probes within {seconds:.0f} s"
                    )
                    raise ProbeError(f"{what}: {error}") from None
            time.sleep(_PAUSE_SECONDS)

    def _checked(self, archive: Archive, version: str, request: Mapping[str, Any]) -> None:
        answer = self.ask(archive.name, version, request)
        classes = {task["name"]: task["classes"] for task in archive.tasks}
        found, pinned = answer.get("task"), request.get("task")
        if answer.get("model_version") != archive.version:
            raise ProbeError(f"version {answer.get('model_version')} answered, not {archive.version}")
        if found is None and answer.get("unknown") is True and pinned is None:
            return
        if found not in classes or answer.get("label") not in classes[found] or pinned not in (None, found):
            raise ProbeError(f"{archive.name} {archive.version} gave a wrong answer: {str(answer)[:300]}")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Prober:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _requests(archive: Archive) -> Iterator[dict[str, Any]]:
    yield example_request(archive)
    for task in archive.tasks:
        yield {"data": numbers(archive.probes[task["owner"]][0]), "task": task["name"]}


def example_request(archive: Archive) -> dict[str, Any]:
    """A request made of the first task's first probe."""
    return {"data": numbers(archive.probes[archive.tasks[0]["owner"]][0])}


def numbers(x: npt.NDArray[Any]) -> Any:
    """An array as JSON, whole numbers written as such."""
    whole = np.isfinite(x).all() and (np.abs(x) < 1 << 53).all() and (x == x.astype("int64")).all()
    return (x.astype("int64") if whole else x).tolist()
