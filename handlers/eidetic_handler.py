"""The TorchServe handler: decode every request, one pass of the graph, encode every answer."""

from __future__ import annotations

import json
import logging
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

from eidetic_answer import answers, encode, refusal
from eidetic_contract import Contract
from eidetic_device import read_settings
from eidetic_errors import BadRequest
from eidetic_graph import Graph
from eidetic_log import open_log
from eidetic_pass import Pass, passes
from eidetic_request import Request, gather, is_grpc, parse
from eidetic_sender import ECHO, TRACE, Sender, sender
from eidetic_trace import open_tracer
from eidetic_watch import Batch, Watch
from eidetic_wire import install

log = logging.getLogger("eidetic.handler")

Headers = dict[str, Any]
Reply = bytes | BadRequest


class EideticHandler:
    """What TorchServe instantiates once in each worker."""

    def initialize(self, context: Any) -> None:
        """Load the bundle that was unpacked into the model's folder."""
        install()
        folder = Path(context.system_properties["model_dir"])
        self.bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        self.contract = Contract.of(self.bundle)
        model, version = self.bundle["name"], self.bundle["model_version"]
        open_log({"model": model, "version": version})
        gpu = int(context.system_properties.get("gpu_id") or 0)
        self.graph = Graph(folder, self.bundle, read_settings(context.model_yaml_config), gpu)
        self.watch, self.tracer = Watch(self.bundle), open_tracer(model, version)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests; a bad one gets its own error and the others their answers."""
        began, started = time.time_ns(), time.perf_counter()
        headers: list[Headers] = [context.get_all_request_header(i) for i in range(len(data))]
        x, parsed = gather([self._parse(*pair) for pair in zip(data, headers, strict=True)], self.contract)
        decoded = time.perf_counter()
        made = passes(self.graph, {i: p for i, p in enumerate(parsed) if isinstance(p, Request)}, x)
        ran = time.perf_counter()
        replies: dict[int, Any] = dict(enumerate(parsed))
        for one in made:
            replies |= self._answers(one)
        senders = [sender(headers[i], context.get_request_id(i)) for i in range(len(data))]
        results = [
            self._reply(context, i, replies[i], senders[i], headers[i], began) for i in range(len(data))
        ]
        seconds = {
            "decode": decoded - started,
            "graph": ran - decoded,
            "handler": time.perf_counter() - started,
        }
        errors = {i: r for i, r in replies.items() if isinstance(r, BadRequest)}
        self.watch.batch(Batch(senders, made, errors, seconds))
        return results

    def _parse(self, row: dict[str, Any], headers: Headers) -> Request | BadRequest:
        try:
            return parse(row, headers, self.contract)
        except BadRequest as error:
            return error
        except Exception:
            log.exception("a request could not be read")
            return BadRequest("body", "could not be read; expected a request as the README describes")

    def _answers(self, one: Pass) -> dict[int, Reply]:
        """The encoded answers of a pass by place in the batch. What can't be answered fails alone."""
        try:
            if one.outputs is not None:
                found = answers(one.requests, one.outputs, self.bundle)
                return dict(zip(one.places, map(encode, found), strict=True))
        except Exception:
            log.exception("an answer could not be written")
            if len(one.requests) > 1:
                return {place: reply for p in one.apart() for place, reply in self._answers(p).items()}
        return {place: self._failed(r) for place, r in zip(one.places, one.requests, strict=True)}

    def _failed(self, request: Request) -> BadRequest:
        error = BadRequest("request", "the server failed on this request; its log knows why", "internal")
        error.reply_to = request.reply_to
        return error

    def _reply(
        self, context: Any, place: int, reply: Reply, sender: Sender, headers: Headers, began: int
    ) -> bytes:
        """Set status and headers of one response; its body."""
        status = reply.status if isinstance(reply, BadRequest) else 200
        context.set_response_content_type(place, "application/json")
        grpc = is_grpc(headers)
        if grpc:  # without it a streaming call ends in an error that kills the worker
            context.set_response_header(place, "ts_stream_next", "false")
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
        return encode(refusal(reply, self.bundle, grpc))
