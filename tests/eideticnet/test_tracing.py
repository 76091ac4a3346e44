"""A plain trunk becomes a program, or is refused by name."""

import pytest
import torch
from torch import nn

from eideticnet import EideticNetwork, UnsupportedError
from eideticnet.models import mlp
from eideticnet.program import Program
from eideticnet.trace.tracing import trace
from tests.support.small_trunks import FEATURES, TRUNKS, Mlp, Normalised, Residual


def example(rows=2):
    return torch.zeros(rows, FEATURES)


class Wrapped(nn.Module):
    """A trunk made of a function of one Linear layer."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.other, self.function = nn.Linear(FEATURES, 8), nn.Linear(8, 8), function

    def forward(self, x):
        return self.function(self, x)


def test_each_linear_layer_has_a_group_of_its_own():
    assert trace(Mlp((12, 10)), example()).groups == {"layers.0": 12, "layers.4": 10}


def test_summed_layers_form_one_group():
    assert trace(Residual((12, 10, 9)), example()).groups == {"stem": 12, "inner.0": 10, "inner.1": 9}


def test_a_layer_called_twice_joins_what_it_reads_and_what_it_writes():
    program = trace(Normalised((12, 10)), example())
    assert program.groups == {"first": 12, "last": 10}
    assert len(program.layers) == 5


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_program_survives_json(trunk):
    import json

    program = trace(trunk((12, 10)), example())
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program


@pytest.mark.parametrize("trunk", TRUNKS)
def test_one_block_computes_the_plain_trunk_bit_for_bit(trunk):
    torch.manual_seed(0)
    plain = trunk((12, 10))
    net = EideticNetwork(plain, example())
    from eideticnet.block import Block

    block = Block(net.program, "t0", (), {"t0": {**net.program.groups, "task_head": 2}}).eval()
    for path in net.program.layers:
        if path != "task_head":
            block.layer(path).load_state_dict(plain.get_submodule(path).state_dict())
    x = torch.randn(5, FEATURES)
    assert torch.equal(block(x, {})[net.program.steps[-1].inputs[0]], plain.eval()(x))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x: torch.softmax(m.fc(x), 1), ["softmax", "feature dimension"]),
        (lambda m, x: m.fc(x).flip(1), ["flip"]),
        (lambda m, x: m.fc(x) + m.other(m.fc(x)).mean(0, keepdim=True), ["mean", "batch"]),
        (lambda m, x: m.other(m.fc(x).view(x.shape[0] * 2, 4).flip(0).view(x.shape[0], 8)), ["view"]),
        (lambda m, x: nn.functional.linear(m.fc(x), m.other.weight), ["linear", "nn.Linear"]),
        (lambda m, x: x, ["at least one layer"]),
        (lambda m, x: m.fc(x).flip(0), ["flip", "batch"]),
        (lambda m, x: m.fc(x).roll(1, 1), ["roll", "no rule"]),
        (lambda m, x: (m.fc(x), x), ["exactly one tensor"]),
        (lambda m, x: m.fc(x) if x.sum() > 0 else m.fc(x) * 2, ["torch.export"]),
        (lambda m, x: m.fc(x) + nn.functional.pad(x, (0, 2)), ["add", "raw input"]),
        (lambda m, x: m.other(m.fc(x)) * m.other.bias, ["other.bias", "its own"]),
        (lambda m, x: m.fc(x) * x.shape[0], ["mul", "number of rows"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_can_not_be_held_is_refused_by_name(function, words):
    with pytest.raises(UnsupportedError) as error:
        trace(Wrapped(function), example())
    for word in words:
        assert word in str(error.value)


def test_a_refusal_names_the_layer():
    class Bad(nn.Module):
        def forward(self, x):
            return torch.softmax(x, 1)

    with pytest.raises(UnsupportedError, match=r"layer '1'"):
        trace(nn.Sequential(nn.Linear(FEATURES, 8), Bad()), example())


def test_a_norm_without_running_statistics_is_refused():
    trunk = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8, track_running_stats=False))
    with pytest.raises(UnsupportedError, match="track_running_stats=True"):
        trace(trunk, example())


def test_tied_weights_are_refused():
    trunk = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES))
    trunk[1].weight = trunk[0].weight
    with pytest.raises(UnsupportedError, match="shares a tensor"):
        trace(trunk, example())


def test_an_example_of_one_row_still_gives_a_network_of_any_batch_size():
    net = EideticNetwork(mlp(FEATURES, (8, 8)), example(1))
    assert net.program.groups == {"1": 8, "3": 8}


def test_an_in_place_operation_changes_what_is_read_afterwards():
    def function(m, x):
        y = m.fc(x)
        torch.relu_(y)
        return y + m.other(y)

    steps = trace(Wrapped(function), example()).steps
    assert steps[1].options["op"] == "aten.relu.default"
    assert steps[2].inputs == (steps[1].name,)
    assert steps[3].inputs[0] == steps[1].name


def test_an_in_place_write_through_a_view_that_is_read_again_is_refused():
    def function(m, x):
        y = m.fc(x)
        z = y.view(y.shape[0], -1)
        z.relu_()
        return y + z

    with pytest.raises(UnsupportedError, match="view"):
        trace(Wrapped(function), example())


def test_an_in_place_write_under_an_earlier_view_is_refused():
    def function(m, x):
        y = m.fc(x)
        z = y.view(y.shape[0], -1)
        y.relu_()
        return z

    with pytest.raises(UnsupportedError, match="view"):
        trace(Wrapped(function), example())


def test_a_trunk_that_is_one_layer_is_a_trunk():
    assert trace(nn.Linear(FEATURES, 8), example()).groups == {"0": 8}


def test_a_norm_used_on_two_values_makes_them_one_group():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            return torch.relu(self.norm(self.b(torch.relu(self.norm(self.a(x))))))

    assert trace(Shared(), example()).groups == {"a": 8}
