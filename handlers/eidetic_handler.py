"""The TorchServe handler: decode every request, one pass of the graph, encode every answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import eidetic_graph
import numpy as np
import numpy.typing as npt
from eidetic_answer import answers, encode, refusal
from eidetic_contract import Contract
from eidetic_errors import BadRequest
from eidetic_request import Request, gather, is_grpc, parse

log = logging.getLogger(__name__)


class EideticHandler:
    """What TorchServe instantiates once in each worker."""

    def initialize(self, context: Any) -> None:
        """Load the bundle that was unpacked into the model's folder."""
        folder = Path(context.system_properties["model_dir"])
        self.bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        self.contract = Contract.of(self.bundle)
        threads = int(context.model_yaml_config.get("handler", {}).get("threads", 1))
        self.run = eidetic_graph.load(folder, self.bundle, threads)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests; a bad one gets its own error and the others their answers."""
        headers = [context.get_all_request_header(i) for i in range(len(data))]
        x, parsed = gather([self._parse(*pair) for pair in zip(data, headers, strict=True)], self.contract)
        answered = self._answer(x, [p for p in parsed if isinstance(p, Request)])
        results = []
        for i, request in enumerate(parsed):
            context.set_response_content_type(i, "application/json")
            grpc = is_grpc(headers[i])
            if grpc:  # without it a streaming call ends in an error that kills the worker
                context.set_response_header(i, "ts_stream_next", "false")
            if isinstance(request, BadRequest):
                context.set_response_status(request.status, HTTPStatus(request.status).phrase, idx=i)
                results.append(encode(refusal(request, self.bundle, grpc)))
            else:
                results.append(encode(next(answered)))
        return results

    def _parse(self, row: dict[str, Any], headers: dict[str, Any]) -> Request | BadRequest:
        try:
            return parse(row, headers, self.contract)
        except BadRequest as error:
            return error
        except Exception:
            log.exception("a request could not be read")
            return BadRequest("body", "could not be read; expected a request as the README describes")

    def _answer(self, x: npt.NDArray[Any] | None, requests: list[Request]) -> Iterator[dict[str, Any]]:
        """The answers to ``requests``, whose rows are ``x``, computed in one pass."""
        if x is None:
            return iter(())
        sizes = [len(r.x) for r in requests]
        outputs = self.run(
            x,
            np.repeat(np.array([r.task for r in requests], np.int64), sizes),
            np.repeat(np.array([r.threshold for r in requests], np.float32), sizes),
        )
        return answers(requests, outputs, self.bundle)
