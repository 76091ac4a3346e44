"""Clients that ask all the time and check every answer, while something is done to the server."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from tests.support.served_process import MODEL, Served
from tests.support.tolerances import EXPORTED
from tests.support.waiting import PATIENCE, until

KNOWN = [[round(random.Random(n).uniform(-1, 1), 3) for _ in range(6)] for n in range(20)]
PAUSE = 0.02
"""Seconds between an answer and the next request of a client: eight of them keep the workers busy, and leave
room for one that starts."""
CHOSEN = ("task", "label", "unknown", "pinned", "model_version")
PROBABILITIES = ("task_probability", "label_probability")


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent and ended (``time.monotonic``), and what was wrong, if anything."""

    sent: float
    ended: float
    wrong: str


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers agree, up to the rounding of another batch."""
    close = all(abs(one[p] - other[p]) <= EXPORTED for p in PROBABILITIES)
    return close and all(one[c] == other[c] for c in CHOSEN)


class Canary:
    """A context manager: ``count`` clients ask from its beginning to its end; then ``asked`` is whole."""

    def __init__(self, server: Served, count: int = 8) -> None:
        self.asked: list[Asked] = []
        self._expected = [server.predict({"data": x}).json() for x in KNOWN]
        self._url = f"{server.running['inference']}/predictions/{MODEL}"
        self._headers = {"Authorization": f"Bearer {server.keys()['inference']}"}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]

    @property
    def wrong(self) -> list[Asked]:
        return [a for a in self.asked if a.wrong]

    def answered(self, count: int) -> None:
        """Wait until ``count`` requests that are sent from now on have ended, however long each takes."""
        now, before = time.monotonic(), len(self.asked)
        until(lambda: sum(a.sent > now for a in self.asked[before:]) >= count)

    def _run(self, number: int) -> None:
        with httpx.Client(headers=self._headers, timeout=PATIENCE, trust_env=False) as client:
            while not self._over.wait(PAUSE):
                number = (number + 1) % len(KNOWN)
                sent = time.monotonic()
                wrong = self._one(client, number)
                self.asked.append(Asked(sent, time.monotonic(), wrong))

    def _one(self, client: httpx.Client, number: int) -> str:
        try:
            answer = client.post(self._url, json={"data": KNOWN[number]})
        except httpx.HTTPError as error:
            return repr(error)
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text}"
        return "" if same(answer.json(), self._expected[number]) else f"another answer: {answer.text}"

    def __enter__(self) -> Canary:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
