"""Waiting for a TorchServe that starts, as long as that is of any use."""

from __future__ import annotations

import time

from eideticnet.serving.errors import ServingError
from eideticnet.serving.process import TorchServe

_PAUSE_SECONDS = 0.05


def wait_for_keys(server: TorchServe, seconds: float) -> dict[str, str]:
    """TorchServe's tokens, once it has written them."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return server.keys()
        except ServingError as error:
            give_up(server, deadline, f"{error} after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)


def give_up(server: TorchServe, deadline: float, problem: str) -> None:
    """Raise if waiting has become useless."""
    if not server.running:
        raise ServingError(f"TorchServe ended while starting:\n{server.last_words()}")
    if time.monotonic() > deadline:
        raise ServingError(f"{problem}; the end of TorchServe's log:\n{server.last_words()}")
