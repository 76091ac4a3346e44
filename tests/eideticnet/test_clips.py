"""Clips: deep trunks have bounds because of them, and no number is another one for them."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eideticnet import EideticNetwork, Inputs, batches, models
from eideticnet.block import Block
from eideticnet.bounds import bounded_free_slots, bounds_of, intervals
from eideticnet.checkpoint import Parts
from eideticnet.export.graph.idle import hazards
from eideticnet.export.graph.lanes import lane_digests
from eideticnet.export.graph.tail import logits_name
from eideticnet.export.graph.values import Values
from eideticnet.learned import Learned, Task
from eideticnet.pages.laying import laid
from eideticnet.program import HEAD
from eideticnet.rules import check_steps
from eideticnet.trace.clips import FARTHEST, with_clips
from eideticnet.trace.tracing import trace
from tests.support import ready_trunks
from tests.support.example_counts import often
from tests.support.growing_networks import paged_graph
from tests.support.layer_zoo import ZOO
from tests.support.small_networks import LIGHT, QUICK, names


class Gated(nn.Module):
    """Gated layers behind norms by hand, as language models have them."""

    def __init__(self, width=64, depth=10):
        super().__init__()
        self.first, layers = (
            nn.Linear(3 * 16 * 16, width),
            lambda a, b: [nn.Linear(a, b) for _ in range(depth)],
        )
        self.up, self.gate = nn.ModuleList(layers(width, 2 * width)), nn.ModuleList(layers(width, 2 * width))
        self.down = nn.ModuleList(layers(2 * width, width))

    def forward(self, x):
        x = self.first(x.flatten(1))
        for up, gate, down in zip(self.up, self.gate, self.down, strict=True):
            h = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5)
            x = x + down(F.silu(gate(h)) * up(h))
        return x


PICTURES = Inputs((3, 16, 16), low=0, high=1)
DEEP = {
    "resnet18": lambda: models.resnet18(width=32, low_resolution=True),
    "resnet50": lambda: models.resnet50(width=16, low_resolution=True),
    "gated": Gated,
    "thirty layers": lambda: models.mlp(3 * 16 * 16, (128,) * 30, batch_norm=True),
}


@cache
def programs(kind):
    """Of a deep trunk, without clips and with them."""
    torch.manual_seed(0)
    program = trace(DEEP[kind](), torch.rand(3, *PICTURES.shape))
    return program, with_clips(program, PICTURES)


def calibrated(program, tasks):
    """Frozen blocks that share all neurons and have seen pictures, each reading all before it."""
    torch.manual_seed(0)
    x, pieces, blocks = torch.rand(16, *PICTURES.shape), {}, []
    owners = [f"t{i}" for i in range(tasks)]
    widths = {owner: {**{g: n // tasks for g, n in program.groups.items()}, HEAD: 2} for owner in owners}
    for i, owner in enumerate(owners):
        block = Block(program, owner, tuple(owners[:i]), widths).train()
        for layer in block.modules():
            if hasattr(layer, "momentum"):
                layer.momentum = None  # the mean of all that was seen
        with torch.no_grad():
            block(x, pieces)
            block.freeze()
            pieces[owner] = block(x, pieces)
        blocks.append(block)
    return blocks


def logits(blocks, x):
    pieces = {}
    with torch.no_grad():
        for block in blocks:
            pieces[block.owner] = block(x, pieces)
    return [own[HEAD] for own in pieces.values()]


@pytest.mark.parametrize(
    ("kind", "tasks"),
    often([("resnet50", 2), ("thirty layers", 1), ("gated", 2)], [("thirty layers", 1), ("gated", 2)]),
)
def test_a_deep_network_has_bounds_with_clips_and_none_without_and_is_the_same_to_the_bit(kind, tasks):
    plain, clipped = programs(kind)
    blocks, x = calibrated(clipped, tasks), torch.rand(5, *PICTURES.shape)
    expected = logits(blocks, x)
    assert len(bounds_of(blocks, PICTURES)) == tasks
    assert bounded_free_slots(clipped, PICTURES)
    for block in blocks:
        block.program = plain
    assert len(bounds_of(blocks, PICTURES)) < tasks
    assert all(map(torch.equal, logits(blocks, x), expected))


@pytest.mark.parametrize(("kind", "tasks"), often([("resnet50", 3), ("resnet18", 15)], [("resnet50", 3)]))
def test_all_tasks_of_a_deep_network_lie_in_pages_that_they_share(kind, tasks):
    program = programs(kind)[1]
    blocks = calibrated(program, tasks)
    learned = Learned([Task(b.owner, b.owner, ("a", "b"), torch.zeros(0)) for b in blocks], blocks)
    pages = laid(learned, program, PICTURES, tasks)
    assert len(pages) < tasks
    assert sum(len(page.owners) for page in pages) == tasks


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tasks"), [("resnet50", 3), ("resnet18", 6)])
def test_what_joins_a_page_of_a_deep_network_is_proven_to_leave_the_others_alone(kind, tasks):
    program = programs(kind)[1]
    blocks, before, pages = calibrated(program, tasks), {}, ()
    for count in range(1, tasks + 1):
        told = [Task(b.owner, b.owner, ("a", "b"), PICTURES.to_try(2)) for b in blocks[:count]]
        learned = Learned(told, blocks[:count], pages=pages)
        net = EideticNetwork.restore(Parts(program, PICTURES, 0, learned, {}, tasks))
        pages = net.pages()
        if count < tasks - 1:
            continue
        values = Values(paged_graph(net))
        digests = lane_digests(values, [logits_name(task.owner) for task in told])
        assert before.items() <= digests.items()
        assert not list(hazards(values, before or digests, PICTURES.low, PICTURES.high))
        before = digests
    assert "t1" in pages[0].owners


@pytest.mark.parametrize("kind", DEEP)
def test_clips_stand_before_layers_where_the_trunk_is_deep_and_never_before_a_norm(kind):
    plain, program = programs(kind)
    clips = [
        step.name for step in program.steps if step not in plain.steps and step.name.endswith("_clipped")
    ]
    check_steps(program)
    assert 1 < len(clips) < len(program.layers)
    assert len({step.name for step in program.steps}) == len(program.steps)
    for name in clips:
        readers = {step.rule for step in program.steps if name in step.inputs}
        assert readers & {"linear", "conv", "elementwise"}
        assert "batch_norm" not in readers


SHALLOW = sorted({*ZOO, *ready_trunks.SMALL} - {"resnet18"})


@pytest.mark.parametrize("kind", often(SHALLOW, ["convnet", "vit_tiny", "dense", "grouped"]))
def test_a_shallow_trunk_has_none(kind):
    trunk, data = (
        ZOO[kind] if kind in ZOO else (ready_trunks.SMALL[kind], lambda n: ready_trunks.inputs(kind, n))
    )
    x = data(3)
    program = trace(trunk(), x)
    dtype = "float32" if x.is_floating_point() else "int64"
    assert with_clips(program, Inputs(tuple(x.shape[1:]), dtype, low=0, high=1)) == program


def test_inputs_without_a_range_give_none():
    plain, _ = programs("thirty layers")
    for open_end in ({}, {"low": 0}, {"high": 1}):
        assert with_clips(plain, Inputs((3, 16, 16), **open_end)) == plain


def test_a_clip_lies_beyond_what_half_precision_holds_and_beyond_the_range_of_inputs():
    plain, _ = programs("thirty layers")
    for inputs, farthest in (
        (PICTURES, FARTHEST),
        (replace(PICTURES, high=255), 255 * FARTHEST),
        (replace(PICTURES, low=-510, high=255, std=(255,)), 2 * FARTHEST),
    ):
        (*_, clip) = [s for s in with_clips(plain, inputs).steps if s.name.endswith("_clipped")]
        assert clip.options["args"][2] == -clip.options["args"][1] == pytest.approx(farthest, rel=0.01)


def test_a_deep_network_learns_and_keeps_its_clips_when_it_is_loaded(tmp_path):
    torch.manual_seed(0)
    inputs = Inputs((6,), low=-9, high=9)
    net = EideticNetwork(models.mlp(6, (8,) * 12), torch.zeros(2, 6), inputs=inputs)
    x = torch.randn(24, 6).clamp(-9, 9)
    net.train_task("a", batches(x, (x[:, 0] > 0).long(), 8), names(2), training=QUICK, pruning=LIGHT)
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert [s.name for s in loaded.program.steps if s.name.endswith("_clipped")] == ["relu_7_clipped"]
    assert loaded.digests() == net.digests()
    block = net.learned.block(net.task("a").owner)
    assert intervals(block, inputs, {}) is not None
