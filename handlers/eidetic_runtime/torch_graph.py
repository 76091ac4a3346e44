"""One TorchScript or .pt2 file in torch, on a CPU or a GPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eidetic_runtime import compiled

log = logging.getLogger("eidetic.torch_graph")

Array = npt.NDArray[Any]


class TorchGraph:
    """Runs the file ``path``, whose inputs and outputs are named in order. ``device`` and ``problem``
    are as in ``onnx_graph``."""

    def __init__(
        self,
        path: Path,
        format: str,
        names: Mapping[str, list[str]],
        device: str,
        device_id: int,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        there = device == "cpu" or torch.cuda.is_available()
        self.problem = "" if there else f"torch {torch.__version__} finds no CUDA device"
        self.device = "cpu" if self.problem else device
        self._place = torch.device("cpu" if self.device == "cpu" else f"cuda:{device_id}")
        self._module = _load(path, format, self._place)
        self.inputs, self.outputs = list(names["inputs"]), list(names["outputs"])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs (N, ...) by name for ``inputs`` (N, ...)."""
        arrays = (torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self.inputs)
        with torch.inference_mode():
            outputs = self._module(*(array.to(self._place) for array in arrays))
            found = [output.cpu().numpy() for output in outputs]
        return dict(zip(self.outputs, found, strict=True))

    run_bound = run


def _load(path: Path, format: str, place: torch.device) -> Any:
    if format == "torchscript":
        return torch.jit.load(str(path), map_location=place).eval()
    if place.type == "cpu" and (ahead := compiled.find(path)) is not None:
        try:
            return compiled.load(ahead)
        except Exception as error:  # of many kinds, whatever a file may hold
            said = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("%s can't be loaded, and the graph runs as it is: %s", ahead.name, said)
    program = torch.export.load(path)
    if place.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, place)
    return program.module()
