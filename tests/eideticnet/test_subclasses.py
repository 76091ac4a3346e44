"""A layer is what it computes: subclasses and look-alikes of stock layers are these, hooks are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from eideticnet import UnsupportedError
from eideticnet.trace.tracing import trace
from tests.support.one_block import assert_one_block_is


def images(rows=4):
    return torch.randn(rows, 3, 8, 8)


def bare(kind, *arguments, **options):
    """An instance of a subclass that adds nothing."""
    return type(f"My{kind.__name__}", (kind,), {})(*arguments, **options)


class NormAct(nn.BatchNorm2d):
    """As in timm: the norm's own forward, an activation after it."""

    def __init__(self, width):
        super().__init__(width, eps=1e-3, momentum=0.01)
        self.act = nn.ReLU()

    def forward(self, x):
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return self.act(x)


class LayerNorm2d(nn.LayerNorm):
    """As in torchvision, timm and Hugging Face: channels last and back."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class SameConv(nn.Conv2d):
    """As in timm: pads like TensorFlow does, other than its own arguments say."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, (2, 2), (0, 0), self.dilation)


class Norm(nn.Module):
    """No subclass at all, as in nanoGPT."""

    def __init__(self, width, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))
        self.bias = nn.Parameter(torch.rand(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-3)


class Scaled(nn.Linear):
    """A parameter beside those of the stock layer."""

    def __init__(self, *widths):
        super().__init__(*widths)
        self.scale = nn.Parameter(torch.rand(widths[1]))

    def forward(self, x):
        return super().forward(x) * self.scale


class Called(nn.Module):
    """The weights of a layer in a function of the layer around it; a norm without weights in a function."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return F.layer_norm(F.linear(F.layer_norm(x, (6,)), self.fc.weight, self.fc.bias), (5,))


class Tied(nn.Module):
    """One weight for two layers is one layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).relu())


def conv(width=6):
    return nn.Conv2d(3, width, 3)


def flat(*layers):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), *layers)


TAKEN = {
    "bare subclasses": lambda: nn.Sequential(
        *(bare(nn.Conv2d, 3, 6, 3), bare(nn.BatchNorm2d, 6), bare(nn.GroupNorm, 2, 6), nn.ReLU()),
        *(
            bare(nn.InstanceNorm2d, 6, affine=True),
            nn.Flatten(),
            bare(nn.Linear, 216, 5),
            bare(nn.LayerNorm, 5),
        ),
    ),
    "a norm with an activation": lambda: nn.Sequential(conv(), NormAct(6), nn.Flatten()),
    "a norm over channels": lambda: nn.Sequential(conv(), LayerNorm2d(6), nn.Flatten()),
    "a convolution with padding of its own": lambda: nn.Sequential(
        SameConv(3, 6, 3, padding=1), nn.Flatten()
    ),
    "a module that is no subclass": lambda: flat(Norm(6), nn.Linear(6, 4)),
    "a norm without a bias": lambda: flat(Norm(6, bias=False), nn.BatchNorm1d(6, bias=False)),
    "a parameter of its own beside the weight": lambda: flat(Scaled(6, 5)),
    "functions of a child's weights": lambda: flat(Called()),
    "tied weights without biases": lambda: flat(Tied()),
    "norms that average over all batches": lambda: flat(nn.BatchNorm1d(6, momentum=None)),
    "a norm over processes in one": lambda: nn.Sequential(conv(), nn.SyncBatchNorm(6), nn.Flatten()),
}


def shaken(trunk):
    """``trunk`` with other numbers than its norms start with."""
    with torch.no_grad():
        for tensor in (*trunk.parameters(), *trunk.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand_like(tensor))
    return trunk.eval()


@pytest.mark.parametrize("kind", TAKEN)
def test_what_calls_a_stock_operation_on_its_own_tensors_is_that_layer(kind):
    torch.manual_seed(0)
    assert_one_block_is(shaken(TAKEN[kind]()), images())


def test_the_arguments_are_those_of_the_call():
    steps = {s.rule: s.options for s in trace(TAKEN["a norm with an activation"](), images()).steps}
    assert (steps["batch_norm"]["eps"], steps["batch_norm"]["momentum"]) == (1e-3, 0.01)
    steps = {
        s.rule: s.options for s in trace(TAKEN["a convolution with padding of its own"](), images()).steps
    }
    assert (steps["conv"]["stride"], steps["conv"]["padding"]) == ([2, 2], [0, 0])


class Computed(nn.Linear):
    """Standardises its weight first."""

    def forward(self, x):
        return F.linear(x, self.weight / self.weight.std(), self.bias)


class Frozen(nn.Linear):
    """Keeps its weight as a buffer."""

    def __init__(self, *widths):
        super().__init__(*widths)
        weight = self._parameters.pop("weight").detach()
        self.register_buffer("weight", weight)


class Twice(nn.Conv2d):
    """Dilated differently from call to call."""

    def forward(self, x):
        x = F.conv2d(x, self.weight, self.bias, padding=1)
        return F.conv2d(x, self.weight, self.bias, padding=2, dilation=2)


class Beside(nn.Linear):
    """Uses its bias once more."""

    def forward(self, x):
        return super().forward(x) * self.bias


class Counting(nn.Linear):
    """Writes into a buffer."""

    def __init__(self, *widths):
        super().__init__(*widths)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count.add_(1)
        return super().forward(x)


class Same(nn.Module):
    def forward(self, weight):
        return weight


class Attended(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.fc, self.attention = nn.Linear(6, 8), attention

    def forward(self, x):
        x = self.fc(x).unsqueeze(1)
        return self.attention(x, x, x)[0].flatten(1)


def hooked(layer, before=False):
    if before:
        layer.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0], *inputs[1:]))
    else:
        layer.register_forward_hook(lambda module, inputs, out: 2 * out)
    return layer


def attention():
    return nn.MultiheadAttention(8, 2, batch_first=True)


REFUSED = {
    "a computed weight": (lambda: flat(Computed(6, 5)), "computed weight"),
    "a weight that is not trained": (lambda: flat(Frozen(6, 5)), "bare parameter"),
    "one weight, two kinds of call": (
        lambda: nn.Sequential(conv(), Twice(6, 6, 3), nn.Flatten()),
        "two shapes or",
    ),
    "a bias used twice": (lambda: flat(Beside(6, 6)), "give it its own"),
    "a buffer that is written to": (lambda: flat(Counting(6, 5)), "writes into '2.count'"),
    "a hook": (lambda: flat(hooked(nn.Linear(6, 5))), "hooks"),
    "a hook before": (lambda: flat(hooked(nn.Linear(6, 5), before=True)), "hooks"),
    "attention with a hook": (
        lambda: flat(Attended(hooked(attention(), before=True))),
        "'2.attention'.*hooks",
    ),
    "attention with a parametrization": (
        lambda: flat(Attended(parametrize.register_parametrization(attention(), "in_proj_weight", Same()))),
        "'2.attention'.*parametriz",
    ),
    "a parametrization": (lambda: flat(parametrizations.weight_norm(nn.Linear(6, 5))), "parametrized weight"),
    "a parametrization that does nothing": (
        lambda: flat(parametrize.register_parametrization(nn.Linear(6, 5), "weight", Same())),
        "parametriz",
    ),
    "the older weight norm": (lambda: flat(old_weight_norm(nn.Linear(6, 5))), "remove_weight_norm"),
    "the older spectral norm": (
        lambda: flat(old_spectral_norm(nn.Linear(6, 5))),
        r"remove_spectral_norm\(layer, 'weight'\)",
    ),
    "pruned weights": (
        lambda: flat(prune.l1_unstructured(nn.Linear(6, 5), "weight", 0.5)),
        r"prune\.remove\(layer, 'weight'\)",
    ),
    "statistics of the batch": (
        lambda: flat(bare(nn.BatchNorm1d, 6, track_running_stats=False)),
        "track_running",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_more_than_the_layer_is_refused_with_the_reason(kind):
    trunk, words = REFUSED[kind]
    with pytest.raises(UnsupportedError, match=words):
        trace(trunk().eval(), images())


def test_an_embedding_that_rewrites_its_weights_is_refused():
    with pytest.raises(UnsupportedError, match="max_norm=None"):
        trace(
            nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Flatten()),
            torch.zeros(2, 3, dtype=torch.int64),
        )


class OutputOf(nn.GRU):
    """Hands on the output alone, and has a layer of its own."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.after = nn.Linear(8, 3)

    def forward(self, x):
        return self.after(super().forward(x)[0]).flatten(1)


class LastOf(nn.LSTM):
    """Hands on the last state."""

    def forward(self, x):
        self.flatten_parameters()
        return super().forward(x)[1][0][-1]


class WithItself(nn.MultiheadAttention):
    """Takes one argument."""

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


class Unheard(nn.GRU):
    """Calls another one's forward."""

    def forward(self, x):
        return nn.GRU.forward(self, x)[0]


AROUND = {
    "output": lambda: nn.Sequential(OutputOf(6, 4, bidirectional=True, batch_first=True)),
    "state": lambda: nn.Sequential(LastOf(6, 4, 2, batch_first=True)),
    "attention": lambda: nn.Sequential(nn.Linear(6, 8), WithItself(8, 2, batch_first=True), nn.Flatten()),
}


@pytest.mark.parametrize("kind", AROUND)
def test_a_forward_around_that_of_a_stock_layer_of_several_is_held(kind):
    torch.manual_seed(0)
    assert_one_block_is(shaken(AROUND[kind]()), torch.randn(2, 5, 6))


def test_another_forward_of_a_recurrent_layer_is_refused_by_the_layers_own_name():
    with pytest.raises(UnsupportedError, match=r"'0' is an nn.GRU with a forward of its own.*use nn.GRU in"):
        trace(nn.Sequential(Unheard(6, 4, batch_first=True), nn.Flatten()), torch.randn(2, 5, 6))
