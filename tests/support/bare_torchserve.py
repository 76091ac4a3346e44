"""TorchServe itself, without the supervisor: started for tests, and its workers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import psutil

from eideticnet.client import Client
from eideticnet.export.archive.reader import Archive
from eideticnet.serving.deploys.probes import Prober
from eideticnet.serving.errors import ServingError
from eideticnet.serving.torchserve import process
from eideticnet.serving.torchserve.process import TorchServe, give_up, wait_for_keys
from tests.support import served_process
from tests.support.java_cache import quick_java
from tests.support.own_ports import own_ports
from tests.support.waiting import PATIENCE


def wait_until_ready(server: TorchServe, archives: Sequence[Archive], seconds: float = PATIENCE) -> Client:
    """Wait until this very version of every archive has answered a prediction; a client with the token.

    Raises ``ServingError`` with the end of TorchServe's log if it dies or takes too long.
    """
    deadline = time.monotonic() + seconds
    key = wait_for_keys(server, PATIENCE)["inference"]
    with Prober(server.network.inference_url(server.ports), key) as prober:
        for archive in archives:
            _wait(server, prober, archive, deadline, seconds)
    return Client(server.ports.inference_url, key, timeout=PATIENCE)


def _wait(server: TorchServe, prober: Prober, archive: Archive, deadline: float, seconds: float) -> None:
    while True:
        try:
            return prober.check(archive, archive.version)
        except ServingError as error:
            last = str(error)
        what = f"{archive.name} {archive.version} gave no prediction within {seconds:.0f} s ({last})"
        give_up(server, deadline, what)
        time.sleep(0.05)


@contextmanager
def started(archives: Sequence[Archive], **options: Any) -> Iterator[TorchServe]:
    """A TorchServe that has answered for every archive."""
    with patch.object(process, "JAVA_OPTIONS", [*process.JAVA_OPTIONS, *quick_java()]):
        server = TorchServe(archives, own_ports(), **options)
    with server:
        wait_until_ready(server, archives).close()
        yield server


def workers(server: TorchServe) -> list[psutil.Process]:
    return served_process.workers(server.pid)


def asleep(server: TorchServe) -> AbstractContextManager[None]:
    """The workers take requests and answer none."""
    return served_process.asleep(workers(server))
