"""A bundle that answers: decode every request, one pass of the graph, encode every answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eidetic_runtime.answers import answers, encode, refusal
from eidetic_runtime.contract import Contract
from eidetic_runtime.device import read_settings
from eidetic_runtime.errors import BadRequest
from eidetic_runtime.graph import Graph
from eidetic_runtime.headers import ECHO, TRACE, Sender, read_headers
from eidetic_runtime.log import open_log
from eidetic_runtime.passes import Pass, passes
from eidetic_runtime.reply import JSON_HEADERS, Headers, Reply, Row
from eidetic_runtime.requests import Request, gather, parse
from eidetic_runtime.telemetry import Batch, Telemetry
from eidetic_runtime.trace import open_tracer

log = logging.getLogger("eidetic.model")

Found = bytes | BadRequest


class Model:
    """The bundle in ``folder``, run as the ``config`` of a model-config.yaml says, on the GPU of that number
    where it may. ``tensors``: a gRPC client reads tensors alone, errors included."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any] | None, gpu: int = 0, tensors: bool = False
    ) -> None:
        self.bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        self.contract, self._tensors = Contract.of(self.bundle), tensors
        model, version = self.bundle["name"], self.bundle["model_version"]
        open_log({"model": model, "version": version})
        self.graph = Graph(folder, self.bundle, read_settings(config), gpu)
        self.telemetry, self.tracer = Telemetry(self.bundle), open_tracer(model, version)

    def answer(self, rows: list[Row]) -> tuple[list[Reply], Batch]:
        """The replies to a batch of requests, a bad one's its own error, and what telemetry needs."""
        began, started = time.time_ns(), time.perf_counter()
        senders = _senders(rows)
        x, parsed = gather([self._parse(*pair) for pair in zip(rows, senders, strict=True)], self.contract)
        decoded = time.perf_counter()
        made = passes(self.graph, {i: p for i, p in enumerate(parsed) if isinstance(p, Request)}, x)
        ran = time.perf_counter()
        found: dict[int, Any] = dict(enumerate(parsed))
        for one in made:
            found |= self._answers(one)
        replies = [self._reply(found[i], sender, began) for i, sender in enumerate(senders)]
        seconds = {
            "decode": decoded - started,
            "graph": ran - decoded,
            "handler": time.perf_counter() - started,
        }
        errors = {i: r for i, r in found.items() if isinstance(r, BadRequest)}
        return replies, Batch([row[0] for row in rows], senders, made, errors, seconds)

    def _parse(self, row: Row, sender: Sender) -> Request | BadRequest:
        try:
            return parse(row[2], sender, self.contract)
        except BadRequest as error:
            return error
        except Exception:
            log.exception("a request could not be read")
            return BadRequest("body", "could not be read; expected a request as the README describes")

    def _answers(self, one: Pass) -> dict[int, Found]:
        """The encoded answers of a pass by place in the batch. What can't be answered fails alone."""
        try:
            if one.outputs is not None:
                found = answers(one.requests, one.outputs, self.bundle)
                texts = (each if isinstance(each, BadRequest) else encode(each) for each in found)
                return dict(zip(one.places, texts, strict=True))
        except Exception:
            log.exception("an answer could not be written")
            if len(one.requests) > 1:
                return {place: reply for p in one.apart() for place, reply in self._answers(p).items()}
        told = "request", "the server failed on this request; its log knows why", "internal"
        failed = (BadRequest(*told, request.reply_to) for request in one.requests)
        return dict(zip(one.places, failed, strict=True))

    def _reply(self, found: Found, sender: Sender, began: int) -> Reply:
        """One response: status, headers, body."""
        trace = sender.traceparent
        if self.tracer:
            status = found.status if isinstance(found, BadRequest) else 200
            trace = self.tracer.span(trace, status, began, time.time_ns())
        headers = JSON_HEADERS
        if sender.grpc or sender.request_id or trace:
            headers = {
                **JSON_HEADERS,
                # without it a streaming call ends in an error that kills the worker
                **({"ts_stream_next": "false"} if sender.grpc else {}),
                **({ECHO: sender.request_id} if sender.request_id else {}),
                **({TRACE: trace} if trace else {}),
            }
        if isinstance(found, bytes):
            return Reply(found, headers=headers)
        return Reply(
            encode(refusal(found, self.bundle, sender.grpc and self._tensors)), found.status, headers
        )


def _senders(rows: list[Row]) -> list[Sender]:
    """What the headers of each request say. One client's are often one object."""
    found: list[Sender] = []
    last: Headers | None = None
    for _, headers, _ in rows:
        found.append(found[-1] if headers is last else read_headers(headers))
        last = headers
    return found
