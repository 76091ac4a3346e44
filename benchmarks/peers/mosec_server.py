"""mosec: its front end in Rust batches for one Python worker."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from mosec import Server, Worker, get_logger

from benchmarks.peers.graph import MAX_BATCH, Graph, Rows

get_logger().setLevel("WARNING")


class Raw(Worker):  # type: ignore[misc]
    """Answers float32 bodies."""

    json = False

    def __init__(self) -> None:
        self.graph: Graph = Graph()

    def deserialize(self, data: bytes) -> npt.NDArray[np.float32]:
        return self.graph.decode(data, self.json)

    def forward(self, data: Rows) -> list[bytes]:
        return self.graph.answers(data)

    def serialize(self, data: bytes) -> bytes:
        return data


class Json(Raw):
    """Answers JSON bodies."""

    json = True


if __name__ == "__main__":
    server = Server()
    kind = Json if os.environ["EIDETIC_JSON"] == "1" else Raw
    server.append_worker(kind, num=1, max_batch_size=MAX_BATCH, max_wait_time=1, timeout=30)
    server.run()
