"""Ready means: this very version of each model has answered a real prediction.

TorchServe's ``/ping`` says Healthy while every worker dies at import, and a prediction that is
sent then hangs, so each try has a short limit of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from export.archive import Archive
from serving.client import Client
from serving.errors import RequestError, ServingError
from serving.process import TorchServe

_TRY_SECONDS = 5.0
_PAUSE_SECONDS = 0.1

Answer = TypeVar("Answer")


def wait_until_ready(server: TorchServe, archives: Sequence[Archive], seconds: float) -> Client:
    """Wait until every archive has answered one of its own probes; a client with the token.

    Raises ``ServingError`` with the end of TorchServe's log if it dies or takes too long.
    """
    deadline = time.monotonic() + seconds
    keys = _keep_trying(server, server.keys, "TorchServe wrote no keys", deadline, seconds)
    client = Client(server.ports.inference_url, keys["inference"], timeout=_TRY_SECONDS)
    try:
        for archive in archives:
            problem = f"{archive.name} {archive.version} gave no prediction"
            _keep_trying(server, partial(_predict_once, client, archive), problem, deadline, seconds)
    except BaseException:
        client.close()
        raise
    return client


def _keep_trying(
    server: TorchServe, attempt: Callable[[], Answer], problem: str, deadline: float, seconds: float
) -> Answer:
    """What ``attempt`` returns once it raises no ``ServingError``, before ``deadline``."""
    while True:
        try:
            return attempt()
        except ServingError as error:
            last = str(error)
        if not server.running:
            raise ServingError(f"TorchServe ended while starting:\n{server.log_tail()}")
        if time.monotonic() > deadline:
            raise ServingError(
                f"{problem} within {seconds:.0f} s ({last}); the end of TorchServe's log:\n"
                + server.log_tail()
            )
        time.sleep(_PAUSE_SECONDS)


def _predict_once(client: Client, archive: Archive) -> None:
    answer = client.predict(archive.name, example_request(archive), version=archive.version)
    if answer.get("model_version") != archive.version:
        raise RequestError(200, f"version {answer.get('model_version')} answered, not {archive.version}")


def example_request(archive: Archive) -> dict[str, object]:
    """A request made of the first task's first probe, whole numbers written as such."""
    probe = archive.probes[archive.tasks[0]["owner"]][0]
    values = probe.astype("int64") if (probe == probe.astype("int64")).all() else probe
    return {"data": values.tolist()}
