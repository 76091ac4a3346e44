"""What this page asks the server, through the client, and what came of it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy.typing as npt

from eideticnet.client import Answer, Client
from eideticnet.serving.demo.served import Place
from eideticnet.serving.errors import ServingError

_KEPT = 300
_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Asked:
    """An answer, ``when`` it came (Unix seconds), and after how many milliseconds."""

    answer: Answer
    when: float
    milliseconds: float


@dataclass
class Traffic:
    """Requests that were sent one after the other: how many each version answered, and the errors."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return self.answered.total() + len(self.failed)


class Asking:
    """Asks for one instance at a time, and remembers the newest answers. For any number of threads."""

    def __init__(self, place: Place) -> None:
        self._model = place.model
        self._client = Client(
            place.target.url, place.target.key, verify=place.target.verify, timeout=_SECONDS
        )
        self.asked: deque[Asked] = deque(maxlen=_KEPT)

    def ask(self, x: npt.ArrayLike | bytes, task: str | None, threshold: float | None) -> Asked:
        """As ``Client.predict``, with nothing tried again: what is shown is one request."""
        began = time.perf_counter()
        (answer,) = self._client.predict(self._model, x, task=task, threshold=threshold, probabilities=True)
        found = Asked(answer, time.time(), 1000 * (time.perf_counter() - began))
        self.asked.append(found)
        return found

    @contextmanager
    def meanwhile(self, x: npt.ArrayLike | bytes) -> Iterator[Traffic]:
        """Asks about ``x`` again and again for as long as the block takes, without a retry."""
        traffic, over = Traffic(), threading.Event()

        def send() -> None:
            while not over.wait(_PAUSE_SECONDS):
                try:
                    (answer,) = self._client.predict(self._model, x)
                    traffic.answered[answer.model_version] += 1
                except ServingError as error:
                    traffic.failed.append(str(error))

        sender = threading.Thread(target=send, name="meanwhile", daemon=True)
        sender.start()
        try:
            yield traffic
        finally:
            over.set()
            sender.join()

    def close(self) -> None:
        self._client.close()
