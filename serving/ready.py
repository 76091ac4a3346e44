"""Ready means: this very version of each model has answered a real prediction."""

from __future__ import annotations

import time
from collections.abc import Sequence

from export.archive import Archive
from serving.client import Client
from serving.errors import ServingError
from serving.probes import Prober, example_request
from serving.process import TorchServe

__all__ = ["example_request", "wait_until_ready"]

_TRY_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


def wait_until_ready(server: TorchServe, archives: Sequence[Archive], seconds: float) -> Client:
    """Wait until every archive has answered one of its own probes; a client with the token.

    Raises ``ServingError`` with the end of TorchServe's log if it dies or takes too long.
    """
    deadline = time.monotonic() + seconds
    key = wait_for_keys(server, seconds)["inference"]
    with Prober(server.network.inference_url(server.ports), key, seconds=_TRY_SECONDS) as prober:
        for archive in archives:
            _wait(server, prober, archive, deadline, seconds)
    return Client(server.ports.inference_url, key)


def wait_for_keys(server: TorchServe, seconds: float) -> dict[str, str]:
    """TorchServe's tokens, once it has written them."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return server.keys()
        except ServingError as error:
            give_up(server, deadline, f"{error} after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)


def _wait(server: TorchServe, prober: Prober, archive: Archive, deadline: float, seconds: float) -> None:
    while True:
        try:
            return prober.check(archive, archive.version)
        except ServingError as error:
            last = str(error)
        what = f"{archive.name} {archive.version} gave no prediction within {seconds:.0f} s ({last})"
        give_up(server, deadline, what)
        time.sleep(_PAUSE_SECONDS)


def give_up(server: TorchServe, deadline: float, problem: str) -> None:
    """Raise if waiting has become useless."""
    if not server.running:
        raise ServingError(f"TorchServe ended while starting:\n{server.log_tail()}")
    if time.monotonic() > deadline:
        raise ServingError(f"{problem}; the end of TorchServe's log:\n{server.log_tail()}")
