"""What only happens while a trunk trains is carried over, refused or warned of by name."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from eideticnet import DataError, EideticNetwork, Pruning, TrunkWarning, UnsupportedError, batches
from eideticnet.program import Program
from eideticnet.rules import check_steps
from eideticnet.trace.normal import as_named
from eideticnet.trace.selfcheck import one_block
from eideticnet.trace.tracing import trace
from tests.support.hugging_face import FirstToken
from tests.support.small_networks import QUICK, names
from tests.support.small_trunks import Net, flat, images, lin, sequences


def two():
    return {"a": lin(), "b": lin()}


def after_a(function):
    """A trunk of two layers with ``function`` between them while it trains."""
    return lambda m, x: m.b(function(m.a(x)) if m.training else m.a(x))


def timm_path(x, keep=0.8):
    return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)


def hugging_face_path(x, keep=0.8):
    drawn = keep + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
    return x.div(keep) * drawn.floor_()


def torchvision_path(x, keep=0.8):
    noise = torch.empty([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    return x * noise.bernoulli_(keep).div_(keep)


def dropped(function):
    """A residual branch that ``function`` drops while the trunk trains."""

    def forward(m, x):
        h = m.c(x)
        branch = m.d(torch.relu(h))
        return (h + (function(branch) if m.training else branch)).mean((2, 3))

    return forward


def convolutions():
    return {"c": nn.Conv2d(2, 4, 1), "d": nn.Conv2d(4, 4, 1)}


def attention(m, x):
    h = m.a(x).view(x.shape[0], 5, 2, 3).transpose(1, 2)
    p = 0.25 if m.training else 0.0
    return F.scaled_dot_product_attention(h, h, h, dropout_p=p).transpose(1, 2).flatten(2).mean(1)


class StaysInEvaluation(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = lin(), nn.BatchNorm1d(6)

    def forward(self, x):
        return self.norm(self.a(x))

    def train(self, mode=True):  # returns nothing, as many do
        super().train(mode)
        self.norm.eval()


def without_gradients(m, x):
    with torch.no_grad():
        h = m.a(x)
    return m.b(torch.relu(h))


CARRIED = {
    "a dropped path of timm": (dropped(timm_path), convolutions, images),
    "a dropped path of Hugging Face": (dropped(hugging_face_path), convolutions, images),
    "a dropped path of torchvision": (dropped(torchvision_path), convolutions, images),
    "noise": (after_a(lambda h: h + 0.1 * torch.randn_like(h)), two, flat),
    "noise of a stated shape": (after_a(lambda h: h * (1 + torch.randn(h.shape[0], 6))), two, flat),
    "noise on the raw input": (
        lambda m, x: m.a(x + torch.randn_like(x) if m.training else x),
        lambda: {"a": lin()},
        flat,
    ),
    "noise at the end": (
        lambda m, x: (lambda h: h + torch.randn_like(h) if m.training else h)(m.a(x)),
        lambda: {"a": lin()},
        flat,
    ),
    "a mask": (after_a(lambda h: torch.where(torch.rand_like(h) < 0.8, h, torch.zeros_like(h))), two, flat),
    "dropout in a branch": (after_a(lambda h: F.dropout(h, 0.3)), two, flat),
    "a copy in memory": (after_a(lambda h: h.contiguous().clone()), two, flat),
    "dropout of another rate": (
        lambda m, x: m.b(F.dropout(m.a(x), 0.3 if m.training else 0.0)),
        two,
        flat,
    ),
    "dropout of no mode": (lambda m, x: m.b(F.dropout(m.a(x), 0.3, False)), two, flat),
    "attention's dropout": (attention, lambda: {"a": lin()}, sequences),
    "alpha dropout": (lambda m, x: m.d(m.a(x)), lambda: {"a": lin(), "d": nn.AlphaDropout(0.2)}, flat),
    "a range while it trains": (after_a(lambda h: h.clamp(-0.1, 0.1)), two, flat),
    "detached": (lambda m, x: m.b(m.a(x).detach()), two, flat),
    "detached in one branch": (lambda m, x: m.a(x) + m.b(m.a(x).detach()), two, flat),
    "detached while it trains": (after_a(lambda h: h.detach()), two, flat),
    "without gradients": (without_gradients, two, flat),
    "what works in place": (
        lambda m, x: m.b(m.r(m.f(m.d(m.a(x.mul_(2)))))),
        lambda: {
            **two(),
            "d": nn.Dropout(0.3, True),
            "f": nn.Dropout1d(0.3, True),
            "r": nn.RReLU(inplace=True),
        },
        flat,
    ),
    "a checkpoint with dropout": (
        lambda m, x: m.b(checkpoint(lambda x: F.dropout(m.a(x), 0.3, m.training), x, use_reentrant=False)),
        two,
        flat,
    ),
    "a norm that stays in evaluation mode": (lambda m, x: m.f(x), lambda: {"f": StaysInEvaluation()}, flat),
    "a norm that averages over all batches": (
        lambda m, x: m.n(m.a(x)),
        lambda: {"a": lin(), "n": nn.BatchNorm1d(6, momentum=None)},
        flat,
    ),
}


@pytest.mark.parametrize("kind", CARRIED)
def test_a_block_that_trains_computes_and_learns_as_the_trunk_does(kind):
    """With the same random numbers: the same features and gradients, bit for bit."""
    function, layers, data = CARRIED[kind]
    torch.manual_seed(0)
    trunk, x = Net(function, **layers()), torch.cat([data(), data()])
    program = trace(trunk, x)
    check_steps(Program.from_json(program.to_json()))
    named = as_named(trunk).train()
    block, name = one_block(program, named), program.steps[-1].inputs[0]
    torch.manual_seed(1)
    features = named(x.clone())  # it may write into its input
    torch.manual_seed(1)
    own = block(x, {})[name]
    assert torch.equal(own, features)
    wanted = torch.randn_like(own)
    (features * wanted).sum().backward()
    (own * wanted).sum().backward()
    for path in program.layers:
        for key, weight in block.layer(path).named_parameters() if path != "task_head" else ():
            theirs = named.get_submodule(path).get_parameter(key).grad
            assert torch.equal(weight.grad, theirs) if theirs is not None else weight.grad is None
    block.eval()
    assert torch.equal(block(x, {})[name], named.eval()(x.clone()))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.relu(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = lin()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        h = self.a(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean())
        return h * 2


def hook_on_a_value(m, x):
    h = m.a(x)
    if h.requires_grad:
        h.register_hook(lambda gradient: -gradient)
    return m.b(h)


def hook_on_a_weight():
    layers = two()
    layers["a"].weight.register_hook(lambda gradient: 2 * gradient)
    return layers


def layer_drop(m, x):
    return m.a(x) if m.training and torch.rand([]) < 0.5 else m.b(m.a(x))


def of_python(m, x):
    return m.a(x) if m.training and random.random() < 0.5 else m.b(m.a(x))


def hook_after_gradients():
    layers = two()
    layers["a"].weight.register_post_accumulate_grad_hook(lambda weight: weight.grad.zero_())
    return layers


class Around(nn.Module):
    """``trunk`` as it is, or in a forward that asks for the mode, and makes nothing of it."""

    def __init__(self, trunk, asks):
        super().__init__()
        self.t, self.asks = trunk, asks

    def forward(self, x):
        if self.asks:
            assert self.training in (True, False)
        return self.t(x)


def encoder():
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.2, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Net(lambda m, x: m.e(m.a(x)).mean(1), a=lin(), e=encoder)


STOCK = {
    "nothing": (lambda: nn.Sequential(lin(), nn.ReLU(), nn.LayerNorm(6)), flat),
    "dropout": (lambda: nn.Sequential(lin(), nn.Dropout(0.3), nn.ReLU(), nn.AlphaDropout(0.2)), flat),
    "dropout in place": (lambda: nn.Sequential(lin(), nn.Dropout(0.3, True), nn.RReLU(inplace=True)), flat),
    "dropout of channels": (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Dropout2d(), nn.Flatten()), images),
    "a batch norm": (lambda: nn.Sequential(lin(), nn.BatchNorm1d(6, momentum=0.3), nn.Tanh()), flat),
    "a batch norm that averages": (lambda: nn.Sequential(lin(), nn.BatchNorm1d(6, momentum=None)), flat),
    "random slopes": (lambda: nn.Sequential(lin(), nn.RReLU(0.1, 0.2)), flat),
    "attention": (encoder, sequences),
    "recurrence": (
        lambda: Net(lambda m, x: m.r(x)[0].mean(1), r=nn.GRU(6, 4, 2, batch_first=True, dropout=0.2)),
        sequences,
    ),
}


@pytest.mark.parametrize("kind", STOCK)
def test_where_only_stock_layers_ask_for_the_mode_one_trace_tells_what_two_do(kind, monkeypatch):
    make, data = STOCK[kind]
    export, runs = torch.export.export, []
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: runs.append(a) or export(*a, **k))
    torch.manual_seed(0)
    trunk = make()
    one, known = trace(Around(trunk, asks=False), data()), len(runs)
    two, asked = trace(Around(trunk, asks=True), data()), len(runs) - known
    assert (known, asked) == (1, 2)
    assert one == two


def test_a_trunk_that_looks_for_its_mode_elsewhere_or_changes_it_is_traced_in_both():
    """In ``vars``, by a method ``train`` of its own, by setting it in ``forward``."""

    def looks(m, x):
        h = m.a(x)
        return m.b(h + torch.randn_like(h)) if vars(m)["training"] else m.b(h)

    def sets(m, x):
        m.d.train(m.training)
        return m.b(m.d(m.a(x)))

    class Told(Net):
        def train(self, mode=True):
            self.noisy = [mode]
            return super().train(mode)

    def told(m, x):
        h = m.a(x)
        return m.b(h + torch.randn_like(h)) if m.noisy[0] else m.b(h)

    for trunk in (Net(looks, **two()), Net(sets, **two(), d=nn.Dropout(0.3)), Told(told, **two())):
        assert {"training", "dropout"} & {step.rule for step in trace(trunk, flat()).steps}


REFUSED = {
    "a layer only while it trains": (
        lambda m, x: m.b(m.a(x)) if m.training else m.a(x),
        two,
        "layer 'b' is computed only while the trunk trains",
    ),
    "another function": (
        lambda m, x: torch.relu(m.a(x)) if m.training else F.gelu(m.a(x)),
        two,
        "relu.* is computed only while the trunk trains",
    ),
    "another scale": (
        lambda m, x: m.a(x) * (0.9 if m.training else 1.0),
        two,
        r"mul.*\(0.9 instead of 1.0\)",
    ),
    "another output": (
        lambda m, x: (m.a(x), m.b(x)) if m.training else m.a(x),
        two,
        "returns a tuple while it trains",
    ),
    "noise of a learned strength": (
        lambda m, x: m.b((lambda h: h + m.strength * torch.randn_like(h) if m.training else h)(m.a(x))),
        lambda: {**two(), "strength": nn.Parameter(torch.ones(1))},
        "mul.* is computed only while the trunk trains",
    ),
    "a layer that is dropped at random": (layer_drop, two, "while it trains depends on the values"),
    "numbers of Python": (of_python, two, "from Python or numpy"),
    "numbers of numpy": (
        lambda m, x: m.a(x) * float(np.random.rand()) if m.training else m.a(x),
        two,
        "from Python or numpy",
    ),
    "a running mean of its own": (lambda m, x: m.f(x), lambda: {"f": Counts()}, "writes into a tensor only"),
    "a straight-through estimator": (
        lambda m, x: m.b(Straight.apply(m.a(x))),
        two,
        "weight of layer 'a' by gradients of its own",
    ),
    "a hook on a value": (hook_on_a_value, two, "weight of layer 'a' by gradients of its own"),
    "a hook on a weight": (lambda m, x: m.b(m.a(x)), hook_on_a_weight, "'a.weight' has a hook"),
    "a hook after gradients": (lambda m, x: m.b(m.a(x)), hook_after_gradients, "'a.weight' has a hook"),
    "dropout that is never off": (lambda m, x: m.b(F.dropout(m.a(x), 0.3)), two, "in evaluation mode too"),
    "nothing that learns": (
        torch.no_grad()(lambda m, x: m.b(m.a(x))),
        two,
        "without gradients, so nothing of the trunk would learn",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_learned_as_another_function_is_refused(kind):
    function, layers, words = REFUSED[kind]
    trunk, x = Net(function, **layers()), flat()
    before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()
    with pytest.raises(UnsupportedError, match=words):
        trace(trunk, x)
    assert (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()) == before


LOST = {
    "noise for each neuron": after_a(lambda h: h * (1 + torch.randn(6))),
    "rows mixed at random": after_a(lambda h: 0.7 * h + 0.3 * h[torch.randperm(h.shape[0])]),
}


@pytest.mark.parametrize("kind", LOST)
def test_regularisation_that_can_not_be_carried_over_is_warned_of(kind):
    with pytest.warns(TrunkWarning, match=r"randn|randperm"):
        trace(Net(LOST[kind], **two()), flat())


def test_a_trunk_that_counts_is_warned_of():
    def forward(m, x):
        m.calls = getattr(m, "calls", 0) + 1
        return m.a(x) * (1 if m.calls < 1000 else 2)

    with pytest.warns(TrunkWarning, match="forward changes 'calls'"):
        trace(Net(forward, a=lin()), flat())


def job(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = torch.randn(32, 6)
    return batches(x, (x[:, seed] > 0).long(), 8)


@pytest.mark.parametrize("score", ["l2", "taylor"])
def test_frozen_layers_of_a_pretrained_trunk_are_never_taught(score):
    """Also not where pruning rebuilds them, nor where a score asks for gradients."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    trunk[0].requires_grad_(False)
    with pytest.warns(TrunkWarning, match=r"'0.weight' and 1 more of the trunk has requires_grad=False"):
        net = EideticNetwork(trunk, torch.zeros(2, 6))
    pruning = Pruning(score=score, step=0.3, threshold=0.9, min_width=2)
    net.train_task("a", job(0), names(2), pretrained=trunk, training=QUICK, pruning=pruning)
    block = net.learned.block("t0")
    frozen, taught = block.layer("0").bias, block.layer("2").bias
    assert len(frozen) < 8
    assert torch.isin(frozen, trunk[0].bias).all()
    assert torch.isin(block.layer("0").weight, trunk[0].weight).all()
    assert not torch.isin(taught, trunk[2].bias).any()


def test_a_bare_parameter_that_is_never_taught_is_a_constant():
    torch.manual_seed(0)
    layers = {"a": lin(), "b": lin(), "where": nn.Parameter(torch.randn(5, 6), requires_grad=False)}
    trunk = Net(lambda m, x: m.b(torch.relu(m.a(x) + m.where)).mean(1), **layers)
    program = trace(trunk, sequences())
    assert [s.rule for s in program.steps if "where" in s.name] == ["buffer"]


def test_a_pretrained_trunk_that_computes_something_else_is_refused():
    trunk = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU())
    net = EideticNetwork(trunk, torch.zeros(2, 6))
    other = copy.deepcopy(trunk)
    other[1].eps = 1.0
    with pytest.raises(DataError, match="pretrained: with its weights"):
        net.train_task("a", job(0), names(2), pretrained=other, training=QUICK)
    assert net.tasks == ()


def test_what_is_drawn_only_while_a_block_trains_follows_the_networks_seed():
    digests = set()
    for surroundings in range(2):
        function, layers, _ = CARRIED["noise"]
        torch.manual_seed(0)
        net = EideticNetwork(Net(function, **layers()), torch.zeros(2, 6))
        torch.manual_seed(surroundings)
        net.train_task("a", job(0), names(2), training=QUICK, pruning=None)
        digests.add(net.digests()["a"])
    assert len(digests) == 1


def test_hugging_faces_attention_keeps_its_dropout():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
        attention_probs_dropout_prob=0.2,
    )
    program = trace(FirstToken(ViTModel(config, add_pooling_layer=False)), torch.randn(2, 3, 8, 8))
    assert [s.options["p"] for s in program.steps if s.rule == "attention"] == [0.2]
