"""A task's bits stay, whichever tasks read its values later, also where it owns nothing in some layer."""

import onnx
import pytest
import torch
from torch import nn

from eideticnet import EideticNetwork, Pruning, Routing, batches
from eideticnet.export.archive.reader import read_files
from eideticnet.export.proof.verify import verify
from tests.support.archived_networks import archived
from tests.support.example_counts import often
from tests.support.small_networks import QUICK, names

LEAST = Pruning(step=0.5, threshold=0.99, recovery_epochs=0, min_width=1)


class TwoReaders(nn.Module):
    """A convolution that its norm reads, and as it is another one."""

    def __init__(self):
        super().__init__()
        self.wide, self.norm = nn.Conv2d(1, 9, 3, padding=1), nn.BatchNorm2d(9)
        self.narrow, self.other = nn.Conv2d(9, 1, 3, padding=1), nn.Conv2d(9, 9, 3, padding=1)

    def forward(self, x):
        y = self.wide(x)
        return torch.cat([self.narrow(y).relu(), self.other(self.norm(y).relu()).relu()], 1).flatten(1)


class Concatenated(nn.Module):
    """As in a DenseNet."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 9, 3, padding=1)
        self.norm, self.narrow = nn.BatchNorm2d(9), nn.Conv2d(9, 1, 3, padding=1)
        self.last_norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 9, 3, padding=1)

    def forward(self, x):
        y = self.wide(x)
        y = torch.cat([y, self.narrow(self.norm(y).relu())], 1)
        return self.last(self.last_norm(y).relu()).relu().flatten(1)


class Summed(nn.Module):
    """As in a ResNet with norms before convolutions: ONNX Runtime fuses sums too."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 9, 3, padding=1)
        self.norm, self.narrow = nn.BatchNorm2d(9), nn.Conv2d(9, 1, 3, padding=1)
        self.back, self.last_norm = nn.Conv2d(1, 9, 3, padding=1), nn.BatchNorm2d(9)

    def forward(self, x):
        y = self.wide(x)
        y = y + self.back(self.narrow(self.norm(y).relu()).relu())
        return self.last_norm(y).relu().flatten(1)


class NormedByHand(nn.Module):
    """A layer norm and a root mean square in single operations, of which ONNX Runtime makes one each."""

    def __init__(self):
        super().__init__()
        self.wide, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16, 16)

    def forward(self, x):
        y = self.wide(x).permute(0, 2, 3, 1)
        y = (y - y.mean(-1, keepdim=True)) / (
            (y - y.mean(-1, keepdim=True)).pow(2).mean(-1, True) + 1e-6
        ).sqrt()
        y = self.last(y)
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).relu().flatten(1)


def loader(seed):
    x = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return batches(x, (x.flatten(1)[:, 0] > 0).long(), 8)


def learn(net):
    """One more task, and a router that is linear."""
    options = {"training": QUICK, "when_full": "reuse"}
    number = len(net.tasks)
    net.train_task(f"task {number}", loader(number), names(2), pruning=LEAST, **options)
    loaders = {task.name: loader(i) for i, task in enumerate(net.tasks)}
    net.fit_router(loaders, routing=Routing("linear", "hard"), **options)


def maxima(archive):
    model = onnx.load_model_from_string(read_files(archive)[1]["model.onnx"])
    return [node for node in model.graph.node if node.op_type == "Max"]


@pytest.mark.parametrize("layout", ["nested", "paged"])
@pytest.mark.parametrize("trunk", often([TwoReaders, Concatenated, Summed], [TwoReaders]))
def test_a_task_that_owns_nothing_in_a_layer_is_kept_when_a_later_one_reads_there(trunk, layout, tmp_path):
    net = EideticNetwork(trunk(), torch.zeros(2, 1, 4, 4), seed=1)
    learn(net)
    assert (
        maxima(archived(net, tmp_path / "first", "0.0", layout=layout)) == []
    )  # it owns something everywhere
    learn(net)
    assert 0 in net.learned.block("t1").own.values()
    before = net.digests()
    old = archived(net, tmp_path / "old", "1.0", prefixes=[2], layout=layout)
    assert len(maxima(old)) == 1
    assert net.digests() == before
    net.widen(1.0)
    learn(net)
    found = verify(archived(net, tmp_path / "new", "2.0", prefixes=[2], layout=layout), old)
    assert (found.verdict, found.reasons) == ("proven", [])


@pytest.mark.parametrize("layout", ["nested", "paged"])
def test_a_norm_by_hand_is_computed_alike_when_a_later_task_reads_what_it_reads(layout, tmp_path):
    net = EideticNetwork(NormedByHand(), torch.zeros(2, 1, 4, 4), seed=1)
    learn(net)
    old = archived(net, tmp_path / "old", "1.0", prefixes=[1], layout=layout)
    learn(net)
    found = verify(archived(net, tmp_path / "new", "2.0", prefixes=[1], layout=layout), old)
    assert (found.verdict, found.reasons) == ("proven", [])


@pytest.mark.parametrize("precision", often(["float16", "int8"], ["int8"]))
def test_barriers_run_in_every_precision(precision, tmp_path):
    net = EideticNetwork(Summed(), torch.zeros(2, 1, 4, 4), seed=1)
    learn(net)
    learn(net)
    old = archived(net, tmp_path / "old", "1.0", precision=precision)
    assert len(maxima(old)) == 1
    net.widen(1.0)
    learn(net)
    found = verify(archived(net, tmp_path / "new", "2.0", precision=precision), old)
    assert (found.verdict, found.reasons) == ("proven", [])
