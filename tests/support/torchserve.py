"""TorchServe itself, without the supervisor: started for tests, and its workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from export.archive import Archive
from serving.process import TorchServe
from serving.ready import wait_until_ready
from serving.settings import free_ports


@contextmanager
def started(archives: Sequence[Archive], **options: Any) -> Iterator[TorchServe]:
    """A TorchServe on free ports that has answered for every archive."""
    with TorchServe(archives, free_ports(prefer_usual=False), **options) as running:
        wait_until_ready(running, archives, 120).close()
        yield running


def workers(server: TorchServe) -> list[psutil.Process]:
    return [p for p in psutil.Process(server.pid).children(recursive=True) if "python" in p.name()]


@contextmanager
def asleep(server: TorchServe) -> Iterator[None]:
    """The workers take requests and answer none."""
    found = workers(server)
    assert found
    for worker in found:
        worker.suspend()
    try:
        yield
    finally:
        for worker in found:
            with suppress(psutil.NoSuchProcess):  # a test may have killed it
                worker.resume()
