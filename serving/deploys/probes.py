"""A version's own probes, sent to it over HTTP: what it means that a version answers.

An engine may say that it is healthy while every worker dies at import, and a prediction that is sent then
hangs, so each try has a short limit of its own.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt

from eideticnet.client.answers import rows
from eideticnet.client.base import Closing
from eideticnet.client.payload import encode
from eideticnet.client.wire import Bearer
from eideticnet.contract.answers import Answer
from eideticnet.export.archive.reader import Archive
from eideticnet.serving.errors import RequestError, ServingError, no_answer
from eideticnet.serving.home.files import write_whole
from eideticnet.serving.key import Key
from eideticnet.serving.questions import SHADOW, Question, example, questions, wrong

PROBE_SECONDS = 5.0
"""How long one probe may take."""
_PAUSE_SECONDS = 0.05


class ProbeError(ServingError):
    """A version did not answer, or answered wrongly."""


class Prober(Closing):
    """Sends requests that are not recorded or counted; ``key`` is the inference token or its file."""

    def __init__(
        self,
        url: str,
        key: str | Path,
        *,
        verify: ssl.SSLContext | bool = True,
        seconds: float = PROBE_SECONDS,
    ) -> None:
        auth = Bearer(Key(key))
        self._http = httpx.Client(
            base_url=url, auth=auth, headers=SHADOW, timeout=seconds, trust_env=False, verify=verify
        )

    def ask(self, name: str, version: str, question: Question) -> Answer:
        """The answer of one version, of the default where ``version`` is empty; else ``ProbeError``,
        and ``ServingError`` at once where nothing listens."""
        path = f"/predictions/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
        body = encode(question.x)
        headers = question.headers(body.content_type)
        try:
            response = self._http.post(path, content=body.content, headers=headers)
        except httpx.ConnectError as error:
            raise no_answer("the server's front end", error) from error
        except httpx.HTTPError as error:
            raise ProbeError(str(no_answer(f"{name} {version}".strip(), error))) from error
        try:
            found = rows(response.status_code, response.content)
        except RequestError as error:
            raise ProbeError(f"{name} {version}: {str(error)[:300]}") from None
        if len(found) != 1:
            raise ProbeError(f"{name} {version} answered {len(found)} rows; expected 1")
        return found[0]

    def check(self, archive: Archive, version: str = "") -> None:
        """One routed probe of the first task."""
        self._checked(archive, version, Question(example(archive)))

    def check_all(self, archive: Archive) -> None:
        """One probe of every task, pinned to it, and a routed one."""
        for question in questions(archive):
            self._checked(archive, archive.version, question)

    def wait(self, archive: Archive, seconds: float) -> None:
        """Until ``check_all`` passes; ``ProbeError`` with the last problem after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.check_all(archive)
            except ProbeError as error:
                if time.monotonic() > deadline:
                    what = f"did not answer its probes within {seconds:.0f} s"
                    raise ProbeError(f"{archive.name} {archive.version} {what}: {error}") from None
            time.sleep(_PAUSE_SECONDS)

    def _checked(self, archive: Archive, version: str, question: Question) -> None:
        answer = self.ask(archive.name, version, question)
        if problem := wrong(archive, question, answer):
            raise ProbeError(problem)

    def close(self) -> None:
        self._http.close()


def write_example(archive: Archive, path: Path) -> Path:
    """``example`` as a file that may be sent as it is."""
    write_whole(path, encode(example(archive)).content)
    return path


def as_json(x: npt.NDArray[Any]) -> Any:
    """An array as JSON, whole numbers written as such."""
    whole = np.isfinite(x).all() and (np.abs(x) < 1 << 53).all() and (x == x.astype("int64")).all()
    return (x.astype("int64") if whole else x).tolist()
