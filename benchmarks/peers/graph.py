"""What both peers do with a batch: decode, one pass of the same graph on one thread, encode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import orjson

MAX_BATCH = 32
Rows = list[npt.NDArray[np.float32]]


class Graph:
    """The graph named by the environment variable EIDETIC_GRAPH."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(os.environ["EIDETIC_GRAPH"])
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.shape = tuple(self.session.get_inputs()[0].shape[1:])

    def decode(self, body: bytes, json: bool) -> npt.NDArray[np.float32]:
        """One instance, from ``{"data": [...]}`` or from little-endian float32."""
        x = np.array(orjson.loads(body)["data"], np.float32) if json else np.frombuffer(body, "<f4")
        return x.reshape(self.shape)

    def answers(self, rows: Rows) -> list[bytes]:
        """The JSON of each row's answer."""
        count = len(rows)
        inputs = {
            "x": np.stack(rows),
            "pinned_task": np.full(count, -1),
            "threshold": np.zeros(count, np.float32),
        }
        outputs: list[npt.NDArray[Any]] = self.session.run(["task", "label"], inputs)
        task, label = (values.tolist() for values in outputs)
        return [orjson.dumps({"task": t, "label": c}) for t, c in zip(task, label, strict=True)]
