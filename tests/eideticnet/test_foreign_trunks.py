"""Trunks that nobody here wrote are learned on like any other: Hugging Face's, from their configurations."""

from dataclasses import replace

import pytest
import torch

from eideticnet import EideticNetwork, Routing, batches
from tests.support.hugging_face import FOREIGN, pixels
from tests.support.one_block import assert_one_block_is
from tests.support.small_networks import LIGHT, QUICK, names


def loader(seed, size):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x, y = pixels(16, size), torch.arange(16) % 2
    return batches(x + y[:, None, None, None], y, 8)


SLOW = {"resnet", "mobilenet", "swin"}  # what they do is in the zoo, and in test_windows


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in FOREIGN]
)
def test_two_tasks_are_learned_on_a_trunk_of_somebody_else(kind):
    make, size = FOREIGN[kind]
    torch.manual_seed(0)
    plain, x = make().eval(), pixels(5, size)
    with torch.no_grad():
        assert torch.equal(assert_one_block_is(plain, x), plain(x))
    net = EideticNetwork(plain, x)
    options = {"training": replace(QUICK, max_epochs=1), "pruning": replace(LIGHT, step=0.8, min_width=1)}
    net.train_task("first", loader(0, size), names(2), **options)
    logits, digest = net.task_logits(x, "first"), net.digests()["first"]
    net.train_task("second", loader(1, size), names(2), **options)
    loaders = {"first": loader(0, size), "second": loader(1, size)}
    routing = Routing(pruning=options["pruning"])
    net.fit_router(loaders, training=options["training"], routing=routing, when_full="reuse")
    assert torch.equal(net.task_logits(x, "first"), logits)
    assert net.digests()["first"] == digest
    assert net(x).task.shape == (5,)
