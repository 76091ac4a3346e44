"""The page that describes what is served now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eideticnet.contract.bundle import Bundle
from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.engine import Engine
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Running
from eideticnet.serving.home.state import State
from eideticnet.serving.openapi.document import document

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Json = dict[str, Any]


def served(home: Home, engine: Engine) -> Json:
    """The document of what is served in ``home`` now."""
    models = sorted(State.known(home.state).models.items())
    bundles = [_bundle(home.store / model.default.file, model.default.sha256) for _, model in models]
    url = Running.read(home.running).inference if home.running.exists() else ""
    return document(bundles, engine.error_schema, url)


@lru_cache(32)
def _bundle(path: Path, sha256: str) -> Bundle:
    """That of an archive, which ``sha256`` tells from another one of the same name."""
    return read_archive(path).bundle


def page(made: Callable[[], Json]) -> WSGIApplication:
    """A page with the document as it is at that moment."""

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        body = json.dumps(made()).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application
