"""Routers in closed form that read the first task's block: later versions and every layout have its bits."""

import pytest
import torch

from eideticnet import EideticNetwork, Inputs, Routing, batches
from eideticnet.export.proof.verify import verify
from eideticnet.models import convnet
from tests.support.archived_networks import PROVABLE, archived
from tests.support.example_counts import often
from tests.support.small_networks import LIGHT, QUICK, names

INPUTS = Inputs((1, 9, 9), low=-8.0, high=8.0, std=(2.0,))
FIRST = {"moments": 24, "moments_of": "first"}


def pictures(seed):
    x = torch.randn(32, *INPUTS.shape, generator=torch.Generator().manual_seed(seed)).clamp(-8, 8)
    return batches(x, (x[:, 0, seed, 1:6].sum(1) > 0).long(), 16)


def learn(net, count):
    for i in range(len(net.tasks), count):
        options = {"training": QUICK, "pruning": LIGHT, "when_full": "widen"}
        net.train_task(f"task {i}", pictures(i), names(2), **options, **FIRST)


@pytest.mark.parametrize("layout", often(PROVABLE, ["paged"]))
def test_a_version_whose_router_reads_the_first_task_otherwise_than_the_last_is_proven(layout, tmp_path):
    net = EideticNetwork(convnet(1, (8, 8), pool_every=1), torch.zeros(2, *INPUTS.shape), inputs=INPUTS)
    learn(net, 1)
    net.fit_router(routing=Routing("none", "entropy"))
    versions = [archived(net, tmp_path / "1", "1.0", prefixes=[1], layout=layout)]
    learn(net, 3)
    data = {task.name: pictures(i) for i, task in enumerate(net.tasks)}
    for number, routing in enumerate((Routing("moments"), Routing("experts")), 2):
        net.fit_router(data, routing=routing, validation=data, training=QUICK)
        folder = tmp_path / str(number)
        versions.append(archived(net, folder, f"{number}.0", prefixes=[1], layout=layout))
        found = verify(versions[-1], versions[-2])
        assert (found.verdict, found.reasons) == ("proven", [])
