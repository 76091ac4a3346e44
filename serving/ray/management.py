"""What any process of this machine asks of the host: orders over HTTP, with the management token."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from eideticnet.serving.engine import ANSWER_SECONDS, Drained, EngineError, HeldModel, HeldVersion, Worker
from eideticnet.serving.errors import no_answer
from eideticnet.serving.home.running import Profile
from eideticnet.serving.home.state import CLOSED, Version
from eideticnet.serving.key import Key

_PAUSE_SECONDS = 0.05
_QUIET_LOOKS = 4
"""So many looks in a row must find nothing, so that what is just being read is seen too."""
_SLACK_SECONDS = 5.0
"""What an answer may take longer than the time that it was given."""


class RayManagement:
    """Implements ``Management``; ``key`` is the management token's file. All methods raise
    ``EngineError``."""

    def __init__(self, url: str, key: Key) -> None:
        self._key = key
        self._http = httpx.Client(base_url=url, timeout=ANSWER_SECONDS, trust_env=False)

    def models(self, seconds: float = ANSWER_SECONDS) -> dict[str, HeldModel]:
        found: Mapping[str, Any] = self._order("models", seconds, seconds=seconds)
        return {name: _model(each) for name, each in found.items()}

    def model(self, name: str, seconds: float = ANSWER_SECONDS) -> HeldModel | None:
        return self.models(seconds).get(name)

    def hold(self, name: str, version: Version, profile: Profile) -> None:
        """(No request waits for others whatever the ``profile``: those that come during a pass are the
        next.)"""
        found = version.model_dump()
        self._order("hold", ANSWER_SECONDS, name=name, **found)

    def scale(self, name: str, version: str, workers: int) -> None:
        """All models share their replicas."""
        self._order("scale", ANSWER_SECONDS, workers=workers)

    def set_default(self, name: str, version: str, seconds: float = ANSWER_SECONDS) -> None:
        self._order("set_default", seconds, name=name, version=version, seconds=seconds)

    def refuse(self, name: str, seconds: float = ANSWER_SECONDS) -> None:
        self.set_default(name, CLOSED, seconds)

    def drain(self, name: str, version: str, limit: float, seconds: float = ANSWER_SECONDS) -> Drained:
        start, quiet = time.monotonic(), 0
        while True:
            model = self.model(name, seconds)
            held = model.versions.get(version) if model else None
            waited = time.monotonic() - start
            if held is None or version == CLOSED:
                return Drained(waited, 0, 0)
            quiet = 0 if held.pending else quiet + 1
            if quiet >= _QUIET_LOOKS or waited > limit:
                return Drained(waited, held.pending, 0)
            time.sleep(_PAUSE_SECONDS)

    def release(self, name: str, version: str, left: Drained) -> Drained:
        """Whoever waits is answered by the version that was asked, which goes when the last one is."""
        return left

    def forget(self, name: str, version: str) -> None:
        self._order("forget", ANSWER_SECONDS, name=name, version=version, seconds=ANSWER_SECONDS)

    def _order(self, order: str, within: float, /, **arguments: Any) -> Any:
        headers = {"Authorization": self._key.header()}
        try:
            response = self._http.post(
                f"/{order}", json=arguments, headers=headers, timeout=within + _SLACK_SECONDS
            )
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            said = str(no_answer(f"Ray's host ({order})", error))
            raise EngineError(said, "answered nothing") from error
        if response.status_code == 401:
            if self._key.changed(headers["Authorization"]):
                return self._order(order, within, **arguments)
            raise EngineError(f"Ray's host refused {order}: the key is wrong", "refused its own keys")
        if not response.is_success:
            said = body.get("error", body) if isinstance(body, dict) else body
            raise EngineError(f"Ray refused {order}: {said}")
        return body

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> RayManagement:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _model(found: Mapping[str, Any]) -> HeldModel:
    versions = {
        label: HeldVersion(**{**each, "workers": tuple(Worker(**worker) for worker in each["workers"])})
        for label, each in found["versions"].items()
    }
    return HeldModel(found["default"], versions)
