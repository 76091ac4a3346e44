"""No new work for a server that stops: who asks gets a 503 at once, and what was begun is finished.

TorchServe can't be told to take no more requests, and under steady traffic it never falls quiet. So a
version that has no worker becomes the default of each model.
"""

from __future__ import annotations

import json
import zipfile

from eideticnet.export.contents import MANIFEST
from eideticnet.serving.connection import Connection
from eideticnet.serving.errors import ServingError
from eideticnet.serving.state import CLOSED


def close_gate(server: Connection, model: str, seconds: float) -> None:
    """Answer requests to ``model`` that name no version with a 503 from now on. ``ServingError`` if that
    can't be; TorchServe may take so many seconds for each answer."""
    archive = server.home.store / f"{model}-{CLOSED}.mar"
    described = {"modelName": model, "modelVersion": CLOSED, "handler": "none.py"}
    try:
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(MANIFEST, json.dumps({"runtime": "python", "model": described}))
        server.management.register(archive.name, {"initial_workers": 0}, seconds)
        server.management.set_default(model, CLOSED, seconds)
    except OSError as error:
        raise ServingError(f"{archive} can't be written: {error}") from error
    finally:
        archive.unlink(missing_ok=True)
