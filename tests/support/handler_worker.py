"""A worker of TorchServe without the server: our handler, with TorchServe's own context."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eidetic_handler import EideticHandler
from ts.context import Context, RequestProcessor

if TYPE_CHECKING:
    from eideticnet import EideticNetwork


@dataclass
class Reply:
    """One response: decoded JSON, status, headers."""

    body: Any
    status: int
    headers: dict[str, str]


class Worker:
    """The handler, loaded from the bundle in ``folder`` with the configuration ``config``."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.bundle = json.loads((folder / "bundle.json").read_text())
        self.context = Context(self.bundle["name"], str(folder), None, 32, None, "0.12.0")
        self.context.model_yaml_config = {"handler": config or {}}
        self.handler = EideticHandler()
        self.handler.initialize(self.context)

    def ask(self, requests: Sequence[Any], headers: Sequence[dict[str, str]] = ()) -> list[Reply]:
        """The replies to a batch of bodies (bytes, or what becomes JSON) with their headers."""
        headers = headers or [{}] * len(requests)
        self.context.request_processor = [RequestProcessor({"Host": "x", **h}) for h in headers]
        self.context.request_ids = {i: f"server-{i}" for i in range(len(requests))}
        bodies = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in requests]
        answers = self.handler.handle([{"body": body} for body in bodies], self.context)
        return [
            Reply(json.loads(a), p.get_response_status_code(), p.get_response_headers())
            for a, p in zip(answers, self.context.request_processor, strict=True)
        ]


def make_bundle(folder: Path, net: EideticNetwork | None = None, **options: Any) -> Path:
    """The bundle of a small trained network of three tasks, of 2, 3 and 2 classes, in the new ``folder``."""
    from eideticnet.export.bundle.writer import write_bundle  # late: a worker needs no torch
    from tests.support.small_networks import trained

    folder.mkdir(parents=True)
    write_bundle(net or trained(3), folder, **{"name": "small", "model_version": "3.0", **options})
    return folder
