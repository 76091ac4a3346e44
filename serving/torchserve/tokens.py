"""TorchServe's tokens: where clients find them, and their renewal before they expire.

It makes them when it starts, for a time that is counted by the clock on the wall, and refuses an
expired one. A third token, which never expires and is kept here alone, lets it make new ones.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from eideticnet.files import read_regular
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.files import LARGEST, write_whole
from eideticnet.serving.home.running import Keys
from eideticnet.serving.torchserve.management import TorchServeManagement

log = logging.getLogger("serving.tokens")

_RENEWED = 0.1
"""They are renewed when this much of their time is left."""


@dataclass(frozen=True)
class Made:
    """What TorchServe made: ``keys`` for clients, which end at ``ends`` (Unix seconds), and the key that
    ``renews`` them."""

    keys: Keys
    ends: float
    renews: str


def read_tokens(file: Path) -> Made:
    """TorchServe's own file; ``ServingError`` if it has not written it."""
    try:
        found = json.loads(read_regular(file, LARGEST))
        keys = Keys(**{kind: found[kind]["key"] for kind in Keys.model_fields})
        ends = [datetime.fromisoformat(found[kind]["expiration time"]) for kind in Keys.model_fields]
        return Made(keys, min(ends).timestamp(), str(found["API"]["key"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ServingError("TorchServe has not written its keys yet") from None


class Tokens:
    """The tokens in TorchServe's ``file``, made for ``minutes``; ``keys`` and ``header`` are the files for
    clients. ``clock`` gives Unix seconds, as Java's does. Requests wait inside
    ``waiting``, while TorchServe knows neither the old tokens nor anyone the new ones."""

    def __init__(
        self,
        file: Path,
        minutes: int,
        keys: Path,
        header: Path,
        clock: Callable[[], float] = time.time,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._file, self._seconds, self._clock = file, 60.0 * minutes, clock
        self._keys, self._header, self._waiting = keys, header, waiting
        self._made = read_tokens(file)

    def tend(self, management: TorchServeManagement) -> None:
        """Renew the tokens if it is time, and see that the files for clients hold the right ones."""
        with suppress(ServingError):  # its folder is gone; what was read last is still right
            self._made = read_tokens(self._file)
        if self._made.ends - self._clock() < _RENEWED * self._seconds:
            with self._waiting():
                self._renew(management)
                self.write()
        self.write()

    def _renew(self, management: TorchServeManagement) -> None:
        late = self._clock() >= self._made.ends
        try:
            # TorchServe forgets the old token even where it can't write the new one down
            write_whole(self._file.with_name("renewing"), b"there is room")
            for kind in Keys.model_fields:
                management.renew(kind, self._made.renews)
            self._made = read_tokens(self._file)
        except ServingError as error:
            raise Unavailable(f"the keys {'have expired' if late else 'expire'}: {error}") from error
        log.warning("the keys %s: there are new ones", "had expired" if late else "were about to expire")

    def write(self) -> None:
        """For clients, where they are not there."""
        self._made.keys.keep(self._keys, self._header)
