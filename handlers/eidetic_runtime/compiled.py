"""What AOTInductor makes of a .pt2 graph for the CPU of one machine.

``python -m eidetic_runtime.compiled FOLDER TARGET`` compiles once, since it takes a C++ compiler half a
minute and more; a worker loads what it finds for its graph, its torch and its CPU.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "EIDETIC_COMPILED"
"""Names the folder where a worker looks, in its environment."""
PROBES = "probes.npy"
_TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-1}
"""By how much a logit or probability may differ: this, times the largest of its kind if that is above 1."""
_CPUINFO = Path("/proc/cpuinfo")
_CPU = ("model name", "flags", "CPU part", "Features")


def compiled_name(graph: bytes) -> str:
    """How the file is called that a graph is compiled to here, behind whose it is and a dot: by the SHA-256
    of the graph, of torch's version, and of what the CPU can do."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    cpu = sorted({line for line in lines if line.startswith(_CPU)}) or lines[:1]
    machine = sha256("\n".join([version("torch"), platform.machine(), *cpu]).encode()).hexdigest()
    return f"{sha256(graph).hexdigest()[:32]}-{machine[:16]}.pt2"


def find(graph: Path) -> Path | None:
    """What the file ``graph`` was compiled to for this machine, if it was."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    return next(Path(folder).glob(f"*.{compiled_name(graph.read_bytes())}"), None)


def load(path: Path) -> Any:
    """A callable from and to tensors."""
    import torch._inductor

    return torch._inductor.aoti_load_package(str(path))


def compile_graph(folder: Path, target: Path) -> None:
    """Compile the graph of the bundle in ``folder`` to ``target``, whole or not at all. ``ValueError`` where
    it then answers the rows of ``PROBES`` otherwise than the graph does."""
    import torch._inductor

    bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    program = torch.export.load(folder / bundle["model"])
    made = folder / "compiled.pt2"
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(made), inductor_configs={"cpp.dynamic_threads": True}
    )
    x = torch.from_numpy(np.load(folder / PROBES))
    graphs, tolerance = (program.module(), load(made)), _TOLERANCE[bundle["precision"]]
    for rows in (x, x[:1]):
        for task in (-1, len(bundle["tasks"]) - 1):
            given = rows, torch.full((len(rows),), task), torch.zeros(len(rows))
            with torch.inference_mode():
                answers = [graph(*given) for graph in graphs]
            for name, expected, found in zip(bundle["graph"]["outputs"], *answers, strict=True):
                _compare(name, expected, found, tolerance)
    made.replace(target)


def _compare(name: str, expected: Any, found: Any, tolerance: float) -> None:
    allowed = tolerance * max(1.0, float(expected.abs().max())) if expected.is_floating_point() else 0
    if not (difference := float((expected - found).abs().max())) <= allowed:
        raise ValueError(f"compiled, {name!r} differs by {difference:.2g}, and {allowed:.2g} are allowed")


if __name__ == "__main__":
    compile_graph(Path(sys.argv[1]), Path(sys.argv[2]))
