"""A small HTTP client of one server."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import httpx

from serving.errors import RequestError, ServingError


class Client:
    """Asks one model for predictions. ``key`` is the server's inference token."""

    def __init__(self, url: str, key: str, *, timeout: float = 30.0) -> None:
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout, trust_env=False
        )

    def predict(self, model: str, request: dict[str, Any], *, version: str = "") -> dict[str, Any]:
        """The answer to one JSON request; ``RequestError`` if the status is not 200."""
        path = f"/predictions/{model}" + (f"/{version}" if version else "")
        try:
            response = self._http.post(path, json=request)
        except httpx.HTTPError as error:
            raise ServingError(f"no answer from {self._http.base_url}: {error!r}") from error
        try:
            body = response.json()
        except ValueError:
            body = response.text
        if response.status_code != 200 or not isinstance(body, dict):
            raise RequestError(response.status_code, body)
        return body

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
