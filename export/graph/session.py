"""A graph in ONNX Runtime, with the options that it is served with. Never torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import onnx

from eideticnet.export.errors import ArchiveError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # official builds report usage otherwise

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
THREADS = 1


def session(model: onnx.ModelProto, threads: int = THREADS) -> Run:
    """A function from inputs to outputs, both by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        loaded = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise ArchiveError(f"ONNX Runtime can't load the graph: {error}") from error
    names = [output.name for output in loaded.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(names, loaded.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise ArchiveError(f"ONNX Runtime can't run the graph: {error}") from error

    return run
