"""What a worker process runs: TorchServe's own script, without its import of torch.

TorchServe asks of each answer whether it is a tensor, and imports torch for that alone. This handler's are
bytes, and an ONNX graph needs no torch, so a worker that does not wait for it is ready two seconds earlier,
and a deploy takes that much less from the version that serves. A handler that needs torch still imports the
real one. Run by path, with -P: nothing beside this file is to be taken for a library."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType


def import_without_torch() -> None:
    """Import TorchServe's encoder of answers while a module with one empty class stands in torch's place."""
    torch = ModuleType("torch")
    torch.Tensor = type("Tensor", (), {})  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    try:
        import ts.protocol.otf_message_handler  # noqa: F401
    finally:
        del sys.modules["torch"]


if __name__ == "__main__":
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as if it had been run itself
    import_without_torch()
    runpy.run_path(sys.argv[0], run_name="__main__")
