"""The keys that clients have, and what the engine takes in their place."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections import deque

from eideticnet.serving.home.running import Keys

_BYTES = 32
_FORMER = 4
"""Starts of an engine that a request can have waited through."""


class EdgeKeys:
    """``public``: 256 random bits each, the same as long as the server runs. ``secret`` (Base64) is the
    key of the HMACs by which HAProxy knows them."""

    def __init__(self) -> None:
        self.public = _new()
        self._secret = secrets.token_bytes(_BYTES)
        self.secret = base64.b64encode(self._secret).decode()
        self._inner = _new()  # of no engine: who has the right key waits for the first one as for any other
        self._former: deque[str] = deque(maxlen=_FORMER)

    def taken(self, inner: Keys) -> None:
        """The engine takes these from now on."""
        self._former.append(self._inner.inference)
        self._inner = inner

    def maps(self) -> dict[str, dict[str, str]]:
        """What stands in each map: the HMAC of what is sent, and the key that the engine takes."""
        inner = self._inner
        return {
            "inference": {self._digest(self.public.inference): inner.inference},
            "management": {self._digest(self.public.management): inner.management},
            "former": {self._digest(key): inner.inference for key in (inner.inference, *self._former)},
        }

    def _digest(self, key: str) -> str:
        return hmac.new(self._secret, f"Bearer {key}".encode(), "sha256").hexdigest().upper()


def _new() -> Keys:
    inference, management = (secrets.token_urlsafe(_BYTES) for _ in range(2))
    return Keys(inference=inference, management=management)
