"""One block that has taken over a plain trunk's weights is that trunk; blocks that share its neurons."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eideticnet.block import Block
from eideticnet.export.graph.session import session
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.program import HEAD, Program
from eideticnet.trace.normal import as_named
from eideticnet.trace.tracing import trace
from tests.support.tolerances import EXPORTED


@torch.no_grad()
def assert_one_block_is(plain: nn.Module, x: Tensor, program: Program | None = None) -> Tensor:
    """The features (N, F) of such a block: bit for bit those of ``plain`` in normal form, and what
    ``plain`` itself computes up to rounding. ``program``: its trace, where that is known."""
    program, named = program or trace(plain, x), as_named(plain)
    block = Block(program, "t0", (), {"t0": {**program.groups, HEAD: 2}}).eval()
    block.adopt(named)
    features = block(x, {})[program.steps[-1].inputs[0]]
    assert torch.equal(features, named(x))
    assert torch.allclose(features, plain(x), rtol=0, atol=1e-6)
    return features


class TwoBlocks(nn.Module):
    """Two frozen blocks with random weights, which share the neurons of ``plain`` evenly; the second
    reads the first. Maps x to the logits of both."""

    def __init__(self, plain: nn.Module, x: Tensor) -> None:
        super().__init__()
        program = trace(plain, x)
        half = {group: n - n // 2 for group, n in program.groups.items()}
        rest = {group: n // 2 for group, n in program.groups.items()}
        self.widths = {"t0": {**half, HEAD: 2}, "t1": {**rest, HEAD: 2}}
        self.t0 = Block(program, "t0", (), self.widths)
        self.t1 = Block(program, "t1", ("t0",), self.widths)
        for block in (self.t0, self.t1):
            block.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.t0(x, {})
        return first[HEAD], self.t1(x, {"t0": first})[HEAD]


@torch.no_grad()
def assert_onnx_agrees(plain: nn.Module, inputs: Callable[[int], Tensor]) -> None:
    """Two blocks and their graph, which one example made, on more rows; ``inputs`` makes them."""
    body, x = TwoBlocks(plain, inputs(5)).eval(), inputs(9)
    found = session(to_onnx(body, inputs(5), ["t0", "t1"]))({"x": x.numpy()})
    for logits, expected in zip(found.values(), body(x), strict=True):
        assert torch.allclose(torch.from_numpy(logits), expected, rtol=0, atol=EXPORTED)


def assert_kept_columns_compute_what_they_did(program: Program, x: Tensor) -> None:
    """A block without its last neurons, whose weights nobody reads, gives what the whole one gives."""
    widths = {"t0": {**program.groups, HEAD: 2}}
    whole = Block(program, "t0", (), widths).eval()
    keep = {group: torch.arange(max(1, n - n // 2)) for group, n in program.groups.items()}
    smaller = whole.shrink(keep)
    assert smaller.own == {group: len(kept) for group, kept in keep.items()}
    assert torch.isfinite(smaller(x, {})[HEAD]).all()
    again = smaller.shrink({group: torch.arange(len(kept)) for group, kept in keep.items()})
    assert torch.equal(again(x, {})[HEAD], smaller(x, {})[HEAD])
