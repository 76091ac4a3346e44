"""TorchServe's entry: a worker's requests to the model, and its replies back."""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import eidetic_beside  # noqa: F401  what follows is imported from beside this file
from eidetic_runtime.model import Model
from eidetic_runtime.reply import Row
from eidetic_wire import install


class EideticHandler:
    """What TorchServe instantiates once in each worker."""

    def initialize(self, context: Any) -> None:
        """Load the bundle that was unpacked into the model's folder."""
        install()
        found = context.system_properties
        # where gRPC speaks the Open Inference Protocol, TorchServe would fail at anything but tensors
        tensors = os.environ.get("TS_OPEN_INFERENCE_PROTOCOL") == "oip"
        gpu = int(found.get("gpu_id") or 0)
        self.model = Model(Path(found["model_dir"]), context.model_yaml_config, gpu, tensors)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests as TorchServe hands it over."""
        rows: list[Row] = [
            (context.get_request_id(i) or "", context.get_all_request_header(i), row)
            for i, row in enumerate(data)
        ]
        replies, batch = self.model.answer(rows)
        for i, reply in enumerate(replies):
            for name, value in reply.headers.items():
                context.set_response_header(i, name, value)
            if reply.status != 200:
                context.set_response_status(reply.status, HTTPStatus(reply.status).phrase, idx=i)
        self.model.telemetry.batch(batch)
        return [reply.body for reply in replies]
