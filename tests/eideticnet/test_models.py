"""The ready trunks are what their names say, and tasks are learned on them."""

import re
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch

from eideticnet import EideticNetwork, Routing, UnsupportedError, batches, models
from eideticnet.trace.tracing import trace
from tests.support.example_counts import often
from tests.support.ready_trunks import SMALL, inputs
from tests.support.small_networks import LIGHT, QUICK, names


@pytest.mark.parametrize("kind", often(SMALL, ["mlp", "convnet", "lstm"]))
def test_two_tasks_are_learned_on_a_ready_trunk(kind):
    torch.manual_seed(0)
    net, x = EideticNetwork(SMALL[kind](), inputs(kind, 2)), inputs(kind, 5)
    loaders = {
        name: batches(inputs(kind, rows), torch.arange(rows) % 2, 8) for name, rows in (("a", 16), ("b", 24))
    }
    brief, light = replace(QUICK, max_epochs=1), replace(LIGHT, step=0.8, min_width=1)
    net.train_task("a", loaders["a"], names(2), training=brief, pruning=light)
    logits = net.task_logits(x, "a")
    net.train_task("b", loaders["b"], names(2), training=brief, pruning=light, when_full="widen")
    net.fit_router(loaders, training=brief, routing=Routing(), when_full="reuse")
    assert torch.equal(net.task_logits(x, "a"), logits)
    assert net(x).label.shape == (5,)


@pytest.mark.parametrize(
    ("trunk", "words"),
    [
        (lambda: models.mlp(6, [8, -1]), "the trunk mlp has -1 among hidden"),
        (lambda: models.mlp(0), "inputs = 0"),
        (lambda: models.convnet(3, widths=[0]), "0 among widths"),
        (lambda: models.convnet(3, pool_every=0), "pool_every = 0"),
        (lambda: models.resnet18(width=-1), "width = -1"),
        (lambda: models.lstm(10, hidden=True), "hidden = True"),
        (lambda: models.vit_tiny(heads=5), "a width that the heads divide"),
        (lambda: models.vit_tiny(image=8, patch=16), "no patch larger than the image"),
    ],
)
def test_sizes_that_no_trunk_can_have_are_refused_by_name(trunk, words):
    with pytest.raises(UnsupportedError, match=words):
        trunk()


def test_sizes_may_be_numbers_of_another_library():
    sizes = np.array([6, 8, 8])
    assert models.mlp(sizes[0], sizes[1:])(torch.zeros(2, 6)).shape == (2, 8)


@pytest.mark.parametrize(
    ("trunk", "shape", "features", "millions"),
    [
        (lambda: models.resnet18(), (3, 64, 64), 512, 11.2),
        (lambda: models.resnet18(1, low_resolution=True), (1, 28, 28), 512, 11.2),
        (lambda: models.resnet50(), (3, 64, 64), 2048, 23.5),
        (lambda: models.vit_tiny(), (3, 32, 32), 192, 5.4),
    ],
)
def test_sizes_are_those_of_the_papers(trunk, shape, features, millions):
    with torch.device("meta"):
        made = trunk()
        assert made(torch.zeros(2, *shape)).shape == (2, features)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_channels_that_residual_blocks_add_up_are_one_group():
    groups = trace(models.resnet18(width=4), torch.zeros(2, 3, 32, 32)).groups
    assert len(groups) == 12  # the sums of four stages, and the inner layer of each of eight blocks
    assert sorted(groups.values()) == [4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32]


def test_the_page_of_trunks_names_all_arguments_of_those_that_are_ready():
    page = (Path(__file__).parents[2] / "docs/trunks.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| ready in")]
    found = dict(re.findall(r"`(\w+)\(([\w, ]+)\)`", row))
    for name, arguments in found.items():
        assert arguments.split(", ") == list(signature(getattr(models, name)).parameters)
    assert found.keys() == {"mlp", "convnet", "resnet18", "resnet50", "lstm", "vit_tiny"}
