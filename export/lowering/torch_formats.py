"""A body with its tail as TorchScript or as a torch.export program. Both hold pickled parts: for
trusted publishers."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from eideticnet import EideticNetwork
from eideticnet.data.draws import tracing
from eideticnet.export.errors import ExportError
from eideticnet.export.lowering.body import example, owners
from eideticnet.label_space import respond


class AnswerModule(nn.Module):
    """Raw inputs, pinned tasks and thresholds to a plain tuple, as ``EideticNetwork.forward`` answers."""

    def __init__(self, net: EideticNetwork, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        assert net.learned.routing is not None
        self.fitted, self.labels = net.learned.routing, net.learned.labels
        self.owners = owners(net)
        self.heads = [self.owners.index(task.owner) for task in net.tasks]

    def forward(self, x: Tensor, task: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        logits = self.body(x)
        heads = [logits[i] for i in self.heads]
        router = None if self.fitted.router == "none" else logits[-1]
        return tuple(respond(self.fitted, heads, router, task, threshold, self.labels))


def _examples(net: EideticNetwork, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return example(net, rows), torch.full((rows,), -1), torch.zeros(rows)


def write_torchscript(net: EideticNetwork, body: nn.Module, path: Path) -> None:
    """Write a traced and frozen TorchScript file."""
    with tracing(), warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        traced = torch.jit.trace(AnswerModule(net, body).eval(), _examples(net), check_trace=False)
        # folding norms into convolutions moved logits of a deep network by more than the tolerance
        whole = io.BytesIO()  # torch aborts the process where it can't write to a file
        torch.jit.save(torch.jit.freeze(traced, optimize_numerics=False), whole)
    path.write_bytes(_without_debug_records(whole))


def write_pt2(net: EideticNetwork, body: nn.Module, path: Path) -> None:
    """Write a ``torch.export`` program with dynamic batch size."""
    batch = torch.export.Dim("batch", min=1)
    shapes = {"x": {0: batch}, "task": {0: batch}, "threshold": {0: batch}}
    with tracing(), torch.no_grad():
        program = torch.export.export(AnswerModule(net, body).eval(), _examples(net), dynamic_shapes=shapes)
    if not isinstance(program.graph_signature.user_inputs, tuple) or not program.range_constraints:
        raise ExportError("the batch dimension became a constant during export")
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source paths of this machine
    whole = io.BytesIO()
    torch.export.save(program, whole)
    path.write_bytes(whole.getvalue())


def _without_debug_records(whole: io.BytesIO) -> bytes:
    """Remove what TorchScript keeps for error messages: source paths of this machine."""
    kept = io.BytesIO()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(kept, "w") as file:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                file.writestr(entry.filename, source.read(entry))
    return kept.getvalue()
