"""A trunk that can be held is, however it is wrapped; one that can't is refused for the true reason."""

import logging
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from eideticnet import EideticNetwork, UnsupportedError, batches
from eideticnet.block import Block
from eideticnet.program import HEAD
from eideticnet.rules import with_taps
from eideticnet.trace import views
from eideticnet.trace.tracing import trace
from tests.support.one_block import assert_one_block_is
from tests.support.small_networks import LIGHT, QUICK, names

WIDTH = 8


def rows(count=4):
    return torch.randn(count, 6, 5)


def plain():
    return nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Flatten())


class Net(nn.Module):
    """A function of the input and some layers."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


class Passing(nn.Module):
    """Hands all of its arguments on, as wrappers of other libraries do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_wrapper_that_hands_any_arguments_on_is_part_of_the_trunk():
    assert EideticNetwork(Passing(plain()), rows()).program.groups


@pytest.mark.parametrize(
    "wrap",
    [torch.compile, nn.DataParallel, AveragedModel, lambda m: torch.compile(nn.DataParallel(m))],
)
def test_what_is_wrapped_around_a_trunk_is_taken_off(wrap):
    trunk = plain()
    assert trace(wrap(trunk), rows()) == trace(trunk, rows())
    net = EideticNetwork(wrap(trunk), rows())
    x = rows(8)
    net.train_task("a", batches(x, torch.arange(8) % 2, 4), names(2), training=QUICK, pretrained=wrap(trunk))


def lazy():
    return nn.Sequential(nn.LazyLinear(WIDTH), nn.Flatten())


def linear():
    return nn.Linear(5, WIDTH)


REFUSED = {
    "scripted": (lambda: torch.jit.script(plain()), "scripted; use the nn.Module"),
    "scripted inside": (
        lambda: nn.Sequential(torch.jit.script(linear()), nn.Flatten()),
        "layer '0' is scripted",
    ),
    "lazy": (lazy, "'0.weight' has no size yet; run the trunk once"),
    "double": (lambda: plain().double(), "'0.weight' is torch.float64.*trunk.float"),
    "half": (lambda: plain().half(), "'0.weight' is torch.float16"),
    "len(x)": (
        lambda: Net(lambda m, x: m.a(x).reshape(len(x), -1), a=linear()),
        r"x.shape\[0\] instead of len",
    ),
    "a number of rows": (lambda: Net(lambda m, x: m.a(x).view(2, -1), a=linear()), r"x.shape\[0\]"),
    "a loop over rows": (
        lambda: Net(lambda m, x: torch.stack([m.a(r) for r in x]), a=linear()),
        "no loop over rows",
    ),
    "an LSTM over the batch": (
        lambda: Net(lambda m, x: m.r(x)[0][:, -1], r=nn.LSTM(5, 6)),
        "batch_first=True",
    ),
    "a GRU over the batch": (
        lambda: Net(lambda m, x: m.r(x.transpose(0, 1))[0][-1], r=nn.GRU(5, 6, batch_first=True)),
        r"'r' runs along the rows.*x.transpose\(0, 1\)",
    ),
    "a dictionary": (
        lambda: Net(lambda m, x: {"features": m.a(x)}, a=linear()),
        "returns a dict.*one tensor",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_reason_names_what_to_use(kind):
    trunk, words = REFUSED[kind]
    with pytest.raises(UnsupportedError, match=words) as error:
        trace(trunk(), rows())
    assert "\n" not in str(error.value)


def test_a_default_type_of_double_is_said():
    trunk = plain()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(UnsupportedError, match=r"default dtype is torch.float64.*set_default_dtype"):
            EideticNetwork(trunk, rows().float())
    finally:
        torch.set_default_dtype(torch.float32)


def sinusoids(length, width):
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class Positions(nn.Module):
    """torch's own tutorial: sinusoidal positions in a buffer that is longer than the sequence."""

    def __init__(self, length=30, width=WIDTH, learned=False):
        super().__init__()
        self.embed, self.last = nn.Linear(5, width), nn.Linear(width, width)
        where = sinusoids(length, width)[None]
        if learned:
            self.where = nn.Parameter(where)
        else:
            self.register_buffer("where", where)

    def forward(self, x):
        return self.last((self.embed(x) + self.where[:, : x.shape[1]]).relu()).mean(1)


def test_every_owner_has_its_columns_of_sinusoidal_positions_and_nobody_trains_them(tmp_path):
    torch.manual_seed(0)
    trunk = Positions()
    assert_one_block_is(trunk.eval(), rows())
    net, x = EideticNetwork(trunk, rows()), rows(16)
    for name in "ab":
        loader = batches(rows(16), torch.arange(16) % 2, 8)
        net.train_task(name, loader, names(2), training=QUICK, pruning=LIGHT)
    columns = {tuple(c) for c in sinusoids(30, WIDTH)[:6].T.tolist()}
    for owner in ("t0", "t1"):
        block = net.learned.block(owner)
        (path,) = [s.layer for s in net.program.steps if s.rule == "buffer"]
        kept = block.layer(path).value[0].T
        assert len(kept) == block.own["embed"]
        assert {tuple(c) for c in kept.tolist()} <= columns
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    for name in "ab":
        assert torch.equal(loaded.task_logits(x, name), net.task_logits(x, name))


def test_positions_of_any_size_are_held():
    trunk = Positions(300, 256).eval()
    assert_one_block_is(trunk, torch.randn(2, 290, 5))


def causal(m, x):
    h = m.a(x)
    return m.mha(h, h, h, attn_mask=m.mask, need_weights=False)[0].mean(1)


@pytest.mark.parametrize("length", [16, 257])
def test_a_causal_buffer_of_any_length_is_held(length):
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    mha = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    trunk = Net(causal, a=linear(), mha=mha)
    trunk.register_buffer("mask", mask)
    assert_one_block_is(trunk.eval(), torch.randn(2, length, 5))


def test_a_first_task_starts_from_a_trunk_whose_positions_are_longer():
    torch.manual_seed(0)
    trunk = Positions(learned=True).eval()
    net, x = EideticNetwork(trunk, rows()), rows(8)
    loader = batches(x, torch.arange(8) % 2, 8)
    net.train_task("a", loader, names(2), training=QUICK, pruning=None, pretrained=trunk)
    block = net.learned.block("t0")
    (path,) = [s.layer for s in net.program.steps if s.rule == "parameter"]
    assert torch.allclose(block.layer(path).weight, trunk.where[:, :6], atol=0.5)


class Splits(nn.Module):
    """As in Res2Net: a layer's channels in parts, each with layers of its own, many times over."""

    def __init__(self, depth):
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(5 if i == 0 else WIDTH, WIDTH) for i in range(depth))
        self.parts = nn.ModuleList(nn.Linear(WIDTH // 2, WIDTH // 2) for _ in range(depth))

    def forward(self, x):
        for layer, part in zip(self.first, self.parts, strict=True):
            a, b = torch.split(F.relu(layer(x), inplace=True), WIDTH // 2, -1)
            x = torch.cat([a, F.relu(part(b), inplace=True)], -1)
        return x.mean(1)


def test_looking_for_views_costs_no_more_than_there_are_operations(monkeypatch):
    looked, base = [0], views.base

    def counting(node):
        looked[0] += 1
        return base(node)

    monkeypatch.setattr(views, "base", counting)
    counts = []
    for depth in (4, 8):
        looked[0] = 0
        trace(Splits(depth), rows())
        counts.append(looked[0])
    assert counts[1] < 4.5 * counts[0]


def token(shown):
    """A class token before the others, shown for each row of the batch as ``shown(token, rows)`` says."""
    return lambda: Net(
        lambda m, x: torch.cat([shown(m.cls, x.shape[0]), m.a(x)], 1).mean(1),
        cls=nn.Parameter(torch.rand(1, 1, WIDTH)),
        a=linear(),
    )


def like(function):
    """A function of a layer's output, a parameter as wide, and the input."""
    return lambda: Net(
        lambda m, x: function(m.a(x), m.k, x).mean(1), k=nn.Parameter(torch.rand(WIDTH)), a=linear()
    )


class Turned(nn.Module):
    """GPT-2's Conv1D: a linear layer with its weight turned, on all positions as rows."""

    def __init__(self, read, written):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(read, written) / 2)
        self.bias = nn.Parameter(torch.rand(written))

    def forward(self, x):
        shape = (*x.shape[:-1], self.weight.shape[1])
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(shape)


def windows(m, x):
    """Swin's: attention within pairs of positions, which are rows meanwhile."""
    h = m.a(x).view(x.shape[0], 3, 2, WIDTH).reshape(-1, 2, WIDTH)
    q, k, v = m.qkv(h).view(h.shape[0], 2, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    h = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(h.shape[0], 2, WIDTH)
    return h.view(-1, 3, 2, WIDTH).reshape(-1, 6, WIDTH).mean(1)


HELD = {
    "a token repeated": token(lambda cls, rows: cls.repeat(rows, 1, 1)),
    "a token tiled": token(lambda cls, rows: torch.tile(cls, (rows, 1, 1))),
    "a token broadcast": token(lambda cls, rows: torch.broadcast_to(cls, (rows, 1, WIDTH))),
    "a token and zeros": token(lambda cls, rows: cls + torch.zeros(rows, 1, 1)),
    "ones and a token": token(lambda cls, rows: torch.ones(rows, 1, WIDTH) * cls),
    "expand_as": like(lambda h, k, x: h * k.expand_as(h)),
    "view_as": like(lambda h, k, x: h.flatten(1).view_as(h) * k),
    "reshape_as": like(lambda h, k, x: h.flatten(1).reshape_as(h) + k.type_as(h)),
    "type_as": like(lambda h, k, x: h.type_as(x)),
    "positions as rows": lambda: Net(
        lambda m, x: m.b(m.n(m.a(x.flatten(0, 1)))).relu().unflatten(0, (-1, 6)).mean(1),
        a=linear(),
        n=nn.BatchNorm1d(WIDTH),
        b=nn.Linear(WIDTH, 4),
    ),
    "positions as rows of a value": lambda: Net(
        lambda m, x: m.n(m.b(m.a(x).reshape(-1, WIDTH))).view(x.shape[0], 6, 4).flatten(1),
        a=linear(),
        b=nn.Linear(WIDTH, 4),
        n=nn.LayerNorm(4),
    ),
    "frames as rows": lambda: Net(
        lambda m, x: m.c(x.unsqueeze(2).flatten(0, 1)).amax(2).unflatten(0, (-1, 6)).flatten(1),
        c=nn.Conv1d(1, 4, 3),
    ),
    "windows as rows": lambda: Net(windows, a=linear(), qkv=nn.Linear(WIDTH, 3 * WIDTH)),
}


@pytest.mark.parametrize("kind", HELD)
def test_a_trunk_that_is_only_written_otherwise_is_held(kind):
    torch.manual_seed(0)
    trunk = HELD[kind]().eval()
    assert_one_block_is(trunk, rows())
    program = with_taps(trace(trunk, rows()))  # a router reads all layers, whatever their rows
    block = Block(program, "r", (), {"r": {**program.groups, HEAD: 3}})
    assert block(rows(), {})[HEAD].shape == (4, 3)


def test_a_linear_layer_with_its_weight_turned_is_a_linear_layer():
    torch.manual_seed(0)
    trunk, x = nn.Sequential(Turned(5, WIDTH), nn.ReLU(), Turned(WIDTH, 3), nn.Flatten()), rows()
    net = EideticNetwork(trunk, x)
    loader = batches(x, torch.arange(4) % 2, 4)
    net.train_task("a", loader, names(2), training=QUICK, pruning=None, pretrained=trunk)
    layer = net.learned.block("t0").layer("0")
    assert layer.weight.shape == (WIDTH, 5)
    assert torch.allclose(layer.weight, trunk[0].weight.T, atol=0.5)


OTHERWISE = {
    "two tokens of one": token(lambda cls, rows: cls.repeat(rows, 2, 1)),
    "as many as rows": like(lambda h, k, x: h * torch.ones(x.shape[0]).sum()),
    "rows of two": like(lambda h, k, x: h.reshape(-1, 12, WIDTH)),
    "rows in other places": like(lambda h, k, x: h.transpose(0, 1).reshape(-1, WIDTH).view(-1, 6, WIDTH)),
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_a_trunk_that_is_not_what_it_looks_like_is_refused(kind):
    with pytest.raises(UnsupportedError):
        trace(OTHERWISE[kind](), rows())


def across(function):
    return lambda: Net(lambda m, x: function(m.a(x.flatten(1)), x), a=nn.Linear(30, WIDTH))


SAID = {
    "each channel by itself": (
        lambda: nn.Sequential(nn.Conv1d(6, 12, 3, groups=6), nn.Flatten()),
        "treats each channel of its input by itself",
    ),
    "all numbers moved": (across(lambda h, x: torch.roll(h, 1)), "the feature dimension and the batch"),
    "a norm of all": (across(lambda h, x: h / h.norm()), "the feature dimension and the batch"),
    "the greatest of all": (across(lambda h, x: h / h.amax((0, 1))), "the feature dimension and the batch"),
    "divided by the rows": (across(lambda h, x: h / len(x)), "no number of rows at all"),
    "divided by their number": (across(lambda h, x: h / x.shape[0]), "computes with the number of rows"),
}


@pytest.mark.parametrize("kind", SAID)
def test_a_message_names_what_is_there_and_what_helps(kind):
    trunk, words = SAID[kind]
    with pytest.raises(UnsupportedError, match=words):
        trace(trunk(), rows())


def test_a_mean_over_the_batch_in_training_alone_is_what_is_named():
    trunk = Net(
        lambda m, x: (lambda h: m.b(h - h.mean(0) if m.training else h).mean(1))(m.a(x)),
        a=linear(),
        b=nn.Linear(WIDTH, 3),
    )
    with pytest.raises(UnsupportedError, match=r"aten.mean.dim .* is computed only while the trunk trains"):
        trace(trunk, rows())


class Told(nn.Module):
    """A trunk that logs, lets another thread speak, and can't be traced."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        speaker = threading.Thread(target=lambda: print("from a thread", file=sys.stderr))
        speaker.start()
        speaker.join()
        logging.getLogger("mine").warning("from the trunk")
        return self.layer(x) if x.sum() > 0 else x


def test_while_a_trunk_is_traced_other_threads_and_its_own_log_are_heard_and_torch_is_not(capsys, caplog):
    with pytest.raises(UnsupportedError, match="depends on the values"):
        EideticNetwork(Told(), torch.randn(2, 6))
    heard = capsys.readouterr().err
    assert set(heard.splitlines()) == {"from a thread"}
    assert heard.count("thread") == 2  # a first run, and the trace
    assert [r.message for r in caplog.records] == 2 * ["from the trunk"]
