"""Operations that a trunk may use: on an owner's piece each does what the plain trunk does on the whole."""

import pytest
import torch
from torch import nn

from eideticnet import EideticNetwork, batches
from eideticnet.export.graph.session import session
from eideticnet.export.lowering.body import Body
from eideticnet.export.lowering.paged import dense
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.rules import check_steps
from eideticnet.trace.normal import as_named
from eideticnet.trace.selfcheck import one_block
from eideticnet.trace.tracing import trace
from tests.support.example_counts import often
from tests.support.one_block import TwoBlocks, assert_kept_columns_compute_what_they_did, assert_one_block_is
from tests.support.operations import BY_HAND, KINDS, LAYERED, images
from tests.support.small_networks import LIGHT, QUICK, names
from tests.support.tolerances import EXPORTED


@pytest.mark.parametrize("kind", KINDS)
def test_one_block_computes_the_plain_trunk_bit_for_bit(kind):
    torch.manual_seed(0)
    trunk, x = KINDS[kind]().eval(), images()
    program = trace(trunk, x)
    check_steps(program)
    assert_one_block_is(trunk, x, program)
    assert_kept_columns_compute_what_they_did(program, x)


@pytest.mark.parametrize("kind", BY_HAND)
@torch.no_grad()
def test_a_linear_layer_by_hand_is_one(kind):
    torch.manual_seed(0)
    trunk, x = BY_HAND[kind]().eval(), images()
    program = trace(trunk, x)
    check_steps(program)
    assert "linear" in {s.rule for s in program.steps if s.layer in ("p", "0.p")}
    features = one_block(program, as_named(trunk))(x, {})[program.steps[-1].inputs[0]]
    assert torch.allclose(features, trunk(x), rtol=0, atol=1e-5)


class All(nn.Module):
    """Several kinds side by side."""

    def __init__(self, kinds):
        super().__init__()
        self.kinds = nn.ModuleList(make() for make in kinds.values())

    def forward(self, x):
        return torch.cat([kind(x) for kind in self.kinds], 1)


GRAPHS = 20
"""Kinds share a graph, and so what an export takes by itself; one graph of all would take more than all."""


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("number", often(range(GRAPHS), [3]))
@torch.no_grad()
def test_every_operation_is_exported_to_onnx_and_torchscript(number):
    """Kinds of one sort stand beside each other, so each graph has some of every sort."""
    torch.manual_seed(0)
    kinds = dict(list({**KINDS, **BY_HAND}.items())[number::GRAPHS])
    body, x = TwoBlocks(All(kinds), images()).eval(), images(5)
    run = session(to_onnx(body, images(), ["t0", "t1"]))
    onnx_logits = run({"x": x.numpy()})
    traced = torch.jit.freeze(torch.jit.trace(body, (images(),), check_trace=False))
    for expected, from_onnx, from_script in zip(body(x), onnx_logits.values(), traced(x), strict=True):
        assert torch.allclose(torch.from_numpy(from_onnx), expected, rtol=0, atol=EXPORTED)
        assert torch.allclose(from_script, expected, rtol=0, atol=EXPORTED)


def test_a_later_task_changes_no_bit_of_an_earlier_one_and_one_dense_layer_computes_the_same():
    torch.manual_seed(0)
    net, data = EideticNetwork(All({**LAYERED, **BY_HAND}), images(), seed=0), [images(16), images(16)]
    options = {"training": QUICK, "pruning": LIGHT, "when_full": "reuse"}
    net.train_task("a", batches(data[0], torch.arange(16) % 2, 8), names(2), **options)
    logits, digest = net.task_logits(data[1], "a"), net.digests()["a"]
    net.train_task("b", batches(data[1], torch.arange(16) % 2, 8), names(2), **options)
    assert torch.equal(net.task_logits(data[1], "a"), logits)
    assert net.digests()["a"] == digest
    with torch.no_grad():
        layouts = dense(net).eval()(data[0]), Body(net).eval()(data[0])
    for ours, theirs in zip(*layouts, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=10 * EXPORTED)
