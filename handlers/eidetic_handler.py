"""The TorchServe handler: decode every request, one pass of the graph, encode every answer."""

from __future__ import annotations

import json
import logging
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

from eidetic_answer import answers, encode
from eidetic_device import read_settings
from eidetic_graph import Graph
from eidetic_log import open_log
from eidetic_pass import Outputs, passes
from eidetic_request import BadRequest, Request, parse
from eidetic_sender import ECHO, TRACE, Sender, sender
from eidetic_trace import open_tracer
from eidetic_watch import Batch, Watch

log = logging.getLogger("eidetic.handler")


class EideticHandler:
    """What TorchServe instantiates once in each worker."""

    def initialize(self, context: Any) -> None:
        """Load the bundle that was unpacked into the model's folder."""
        folder = Path(context.system_properties["model_dir"])
        self.bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        model, version = self.bundle["name"], self.bundle["model_version"]
        open_log({"model": model, "version": version})
        settings = read_settings(context.model_yaml_config)
        gpu = int(context.system_properties.get("gpu_id") or 0)
        self.graph = Graph(folder, self.bundle, settings, gpu)
        self.watch, self.tracer = Watch(self.bundle), open_tracer(model, version)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests; a bad one gets its own error and the others their answers."""
        began, started = time.time_ns(), time.perf_counter()
        senders = [sender(context, i) for i in range(len(data))]
        parsed = [self._parse(row) for row in data]
        decoded = time.perf_counter()
        done = passes(self.graph, {i: p for i, p in enumerate(parsed) if isinstance(p, Request)})
        ran = time.perf_counter()
        replies: dict[int, Any] = dict(enumerate(parsed))
        for one in done:
            for place, request, outputs in one.each():
                replies[place] = self._answer(request, outputs)
        results = [self._reply(context, i, replies[i], senders[i], began) for i in range(len(data))]
        seconds = {
            "decode": decoded - started,
            "graph": ran - decoded,
            "handler": time.perf_counter() - started,
        }
        errors = {i: r for i, r in replies.items() if isinstance(r, BadRequest)}
        self.watch.batch(Batch(senders, done, errors, seconds))
        return results

    def _parse(self, row: dict[str, Any]) -> Request | BadRequest:
        try:
            return parse(row.get("body", row.get("data", b"")), self.bundle)
        except BadRequest as error:
            return error
        except Exception:
            log.exception("a request could not be read")
            return BadRequest("body", "could not be read; expected a JSON object as the README describes")

    def _answer(self, request: Request, outputs: Outputs | None) -> bytes | BadRequest:
        try:
            if outputs is not None:
                return encode(answers(request, outputs, self.bundle))
        except Exception:
            log.exception("an answer could not be written")
        return BadRequest("body", "the server failed on this request; its log knows why", 500)

    def _reply(
        self, context: Any, place: int, reply: bytes | BadRequest, sender: Sender, began: int
    ) -> bytes:
        """Set status and headers of one response; its body."""
        status = reply.status if isinstance(reply, BadRequest) else 200
        context.set_response_content_type(place, "application/json")
        if sender.request_id:
            context.set_response_header(place, ECHO, sender.request_id)
        trace = sender.traceparent
        if self.tracer:
            trace = self.tracer.span(trace, status, began, time.time_ns())
        if trace:
            context.set_response_header(place, TRACE, trace)
        if isinstance(reply, bytes):
            return reply
        context.set_response_status(status, HTTPStatus(status).phrase, idx=place)
        return encode(reply.to_json())
