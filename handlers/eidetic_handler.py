"""The TorchServe handler: decode every request, one pass of the graph, encode every answer."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any

import eidetic_graph
import numpy as np
from eidetic_answer import answers, encode
from eidetic_request import BadRequest, Request, parse

log = logging.getLogger(__name__)


class EideticHandler:
    """What TorchServe instantiates once in each worker."""

    def initialize(self, context: Any) -> None:
        """Load the bundle that was unpacked into the model's folder."""
        folder = Path(context.system_properties["model_dir"])
        self.bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        threads = int(context.model_yaml_config.get("handler", {}).get("threads", 1))
        self.run = eidetic_graph.load(folder, self.bundle, threads)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests; a bad one gets its own error and the others their answers."""
        parsed = [self._parse(row) for row in data]
        answered = self._answer([p for p in parsed if isinstance(p, Request)])
        results = []
        for i, request in enumerate(parsed):
            context.set_response_content_type(i, "application/json")
            if isinstance(request, BadRequest):
                context.set_response_status(request.status, HTTPStatus(request.status).phrase, idx=i)
                results.append(encode(request.to_json()))
            else:
                results.append(encode(next(answered)))
        return results

    def _parse(self, row: dict[str, Any]) -> Request | BadRequest:
        try:
            return parse(row.get("body", row.get("data", b"")), self.bundle)
        except BadRequest as error:
            return error
        except Exception:
            log.exception("a request could not be read")
            return BadRequest("body", "could not be read; expected a JSON object as the README describes")

    def _answer(self, requests: list[Request]) -> Any:
        """An iterator over the answers to ``requests``, computed in one pass."""
        if not requests:
            return iter(())
        sizes = [len(r.x) for r in requests]
        outputs = self.run(
            np.concatenate([r.x for r in requests]),
            np.repeat(np.array([r.task for r in requests], np.int64), sizes),
            np.repeat(np.array([r.threshold for r in requests], np.float32), sizes),
        )
        bounds = np.cumsum(sizes)[:-1]
        parts = {name: np.split(value, bounds) for name, value in outputs.items()}
        return (
            answers(r, {name: part[i] for name, part in parts.items()}, self.bundle)
            for i, r in enumerate(requests)
        )
