"""One ONNX file in ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # official builds report usage otherwise
import onnxruntime

Array = npt.NDArray[Any]
CUDA = "CUDAExecutionProvider"
# One algorithm whatever the load, and no TF32: numbers do not depend on what a search happened to find.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}


class OnnxGraph:
    """Runs the file ``path``. ``device`` is where it runs in the end: the CPU if CUDA was asked for
    and can't be had; ``problem`` then says why."""

    def __init__(self, path: Path, device: str, device_id: int, threads: int) -> None:
        self.device, self._device_id, self.problem = "cpu", device_id, ""
        if device == "cuda":
            self._session, self.problem = _on_cuda(path, device_id, threads)
            self.device = "cpu" if self.problem else "cuda"
        if self.device == "cpu":
            self._session = _session(path, "cpu", device_id, threads)
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._bound: dict[int, _Bound] = {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs (N, ...) by name for ``inputs`` (N, ...)."""
        outputs = self._session.run(self.outputs, {name: inputs[name] for name in self.inputs})
        return dict(zip(self.outputs, outputs, strict=True))

    def run_bound(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The same through buffers on the device that are kept for the next batch of this size: only
        outputs come to the host."""
        used = {name: inputs[name] for name in self.inputs}
        rows = len(used[self.inputs[0]])
        if rows not in self._bound:
            self._bound[rows] = _Bound(self._session, used, self.outputs, self.device, self._device_id)
        return self._bound[rows].run(used)


class _Bound:
    """Input buffers on ``device`` of the shapes and types of ``like``, and outputs on the host."""

    def __init__(
        self, session: Any, like: Mapping[str, Array], outputs: list[str], device: str, device_id: int
    ) -> None:
        self._session, self._outputs = session, outputs
        self._binding = session.io_binding()
        self._buffers = {
            name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(a.shape, a.dtype.type, device, device_id)
            for name, a in like.items()
        }
        for name, buffer in self._buffers.items():
            self._binding.bind_ortvalue_input(name, buffer)
        for name in outputs:
            self._binding.bind_output(name, "cpu")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for name, buffer in self._buffers.items():
            buffer.update_inplace(np.ascontiguousarray(inputs[name]))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        # copies, since the next run writes into the same memory
        found = [np.array(value.numpy()) for value in self._binding.get_outputs()]
        return dict(zip(self._outputs, found, strict=True))


def _on_cuda(path: Path, device_id: int, threads: int) -> tuple[Any, str]:
    """A session on CUDA, or why there is none."""
    missing = _load_libraries()
    if CUDA not in onnxruntime.get_available_providers():
        return None, "this build of ONNX Runtime has no CUDA; onnxruntime-gpu has"
    why = f"; not found: {', '.join(missing)}" if missing else "; its libraries were found: is there a GPU?"
    try:
        session = _session(path, "cuda", device_id, threads)
    except Exception as error:  # of many kinds, some of them several lines long
        return None, f"ONNX Runtime could not start CUDA{why} ({str(error).partition(chr(10))[0][:200]})"
    if CUDA not in session.get_providers():
        return None, f"ONNX Runtime could not start CUDA{why}"
    return session, ""


def _load_libraries() -> list[str]:
    """Load CUDA's libraries as they came with torch or as wheels, where no loader finds them by itself; the
    names of those that are nowhere."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return []
    missing: list[str] = []
    for folder in (None, *_lib_of_torch()):  # None stands for the wheels
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # which is how it tells
            onnxruntime.preload_dlls(directory=folder)
        missing = [name for name in re.findall(r"Failed to load (\S+):", said.getvalue()) if "/" not in name]
        if not missing:
            break
    return missing


def _lib_of_torch() -> list[str]:
    """The folder of torch's own libraries, without importing it."""
    spec = importlib.util.find_spec("torch")
    lib = Path(spec.origin).with_name("lib") if spec and spec.origin else None
    return [str(lib)] if lib and lib.is_dir() else []


def _session(path: Path, device: str, device_id: int, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    cuda = [(CUDA, {**_CUDA_OPTIONS, "device_id": str(device_id)})] if device == "cuda" else []
    return onnxruntime.InferenceSession(str(path), options, providers=[*cuda, "CPUExecutionProvider"])
