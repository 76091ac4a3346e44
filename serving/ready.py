"""Ready means: this very version of each model has answered a real prediction.

TorchServe's ``/ping`` says Healthy while every worker dies at import, and a prediction that is
sent then hangs, so each try has a short limit of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from export.archive import Archive
from serving.client import Client
from serving.errors import RequestError, ServingError
from serving.process import TorchServe

_TRY_SECONDS = 5.0
_PAUSE_SECONDS = 0.1


def wait_until_ready(server: TorchServe, archives: Sequence[Archive], seconds: float) -> Client:
    """Wait until every archive has answered one of its own probes; a client with the token.

    Raises ``ServingError`` with the end of TorchServe's log if it dies or takes too long.
    """
    deadline = time.monotonic() + seconds
    client: Client | None = None
    waiting, last = list(archives), ""
    while waiting:
        if not server.running:
            raise ServingError(f"TorchServe ended while starting:\n{server.log_tail()}")
        if time.monotonic() > deadline:
            raise ServingError(
                f"{waiting[0].name} {waiting[0].version} gave no prediction within {seconds:.0f} s ({last}); "
                f"the end of TorchServe's log:\n{server.log_tail()}"
            )
        try:
            client = client or Client(
                server.ports.inference_url, server.keys()["inference"], timeout=_TRY_SECONDS
            )
            _predict_once(client, waiting[0])
            waiting.pop(0)
        except ServingError as error:
            last = str(error)
            time.sleep(_PAUSE_SECONDS)
    assert client is not None
    return client


def _predict_once(client: Client, archive: Archive) -> None:
    answer = client.predict(archive.name, example_request(archive), version=archive.version)
    if answer.get("model_version") != archive.version:
        raise RequestError(200, f"version {answer.get('model_version')} answered, not {archive.version}")


def example_request(archive: Archive) -> dict[str, object]:
    """A request made of the first task's first probe, whole numbers written as such."""
    probe = archive.probes[archive.tasks[0]["owner"]][0]
    values = probe.astype("int64") if (probe == probe.astype("int64")).all() else probe
    return {"data": values.tolist()}
