"""A graph that computes something else than its network is never exported, whatever is at fault."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import eideticnet.export.bundle.graph_file
import eideticnet.export.lowering.to_onnx
from eideticnet import EideticNetwork, Inputs, Routing, batches
from eideticnet.checkpoint import Parts
from eideticnet.export.bundle.agreement import Reference
from eideticnet.export.bundle.trial_inputs import trial_inputs
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.errors import ExportError
from tests.support.example_counts import often
from tests.support.small_networks import LIGHT, QUICK, names, trained


class Pooled(nn.Module):
    """Convolutions with ``pool`` between them."""

    def __init__(self, spatial, pool):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[spatial]
        self.first, self.pool, self.last = conv(2, 4, 3, padding=1), pool, conv(4, 4, 1)

    def forward(self, x):
        return self.last(self.pool(self.first(x))).flatten(2).mean(-1)


class Between(nn.Module):
    """Linear layers with ``function`` between them."""

    def __init__(self, function):
        super().__init__()
        self.first, self.function, self.last = nn.Linear(6, 8), function, nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def learned(trunk, *shape, **inputs):
    """One task with a linear router, taught as little as there must be."""
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    spec = Inputs(shape, **inputs) if inputs else None
    net, data = EideticNetwork(trunk, x[:2], inputs=spec), batches(x, torch.arange(8) % 2, 8)
    net.train_task("one", data, names(2), training=QUICK, pruning=LIGHT)
    net.fit_router({"one": data}, training=QUICK, routing=Routing("linear", "joint"))
    return net


def write(net, folder, **options):
    write_bundle(net, folder, name="net", model_version="1.0", **options)


POOLS = {
    "an average over another divisor": (2, nn.AvgPool2d(2, divisor_override=1), (5, 6)),
    "one that hangs over the edge": (
        2,
        nn.AvgPool2d((2, 3), (3, 2), padding=(1, 0), ceil_mode=True, divisor_override=5),
        (5, 6),
    ),
    "one of volumes": (3, nn.AvgPool3d(2, 1, padding=1, divisor_override=3), (3, 4, 2)),
    "5 averages of 16": (1, nn.AdaptiveAvgPool1d(5), (16,)),
    "averages of volumes": (3, nn.AdaptiveAvgPool3d((3, 1, 2)), (4, 3, 4)),
    "3 maxima of 8": (1, nn.AdaptiveMaxPool1d(3), (8,)),
    "5 x 4 maxima of 16 x 8": (2, nn.AdaptiveMaxPool2d((5, 4)), (16, 8)),
    "more maxima than places": (2, nn.AdaptiveMaxPool2d(5), (3, 5)),
    "maxima of volumes": (3, nn.AdaptiveMaxPool3d(3), (4, 5, 3)),
}


OFTEN = ("one that hangs over the edge", "one of volumes", "5 averages of 16", "5 x 4 maxima of 16 x 8")


@pytest.mark.parametrize("kind", often(POOLS, OFTEN))
def test_what_the_exporter_lacks_or_gets_wrong_is_written_so_that_it_agrees(kind, tmp_path):
    spatial, pool, size = POOLS[kind]
    write(learned(Pooled(spatial, pool), 2, *size), tmp_path)


def test_a_log_sigmoid_is_finite_however_far_below_zero(tmp_path):
    write(learned(Between(nn.LogSigmoid()), 6), tmp_path)


@pytest.mark.parametrize("layout", ["nested", "dense"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_an_operation_that_is_exported_as_another_one_is_refused_and_leaves_nothing(
    layout, precision, tmp_path, monkeypatch
):
    """The divisor that the exporter drops, without our translation of it."""
    monkeypatch.setattr(eideticnet.export.lowering.to_onnx, "TRANSLATIONS", {})
    net = learned(Pooled(2, nn.AvgPool2d(2, divisor_override=1)), 2, 4, 4)
    with pytest.raises(ExportError, match="does not compute what the network does: task 'one', its logits"):
        write(net, tmp_path, layout=layout, precision=precision)
    assert list(tmp_path.iterdir()) == []


def test_what_no_exporter_can_write_is_one_line_with_the_operation_and_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(eideticnet.export.lowering.to_onnx, "TRANSLATIONS", {})
    net = learned(Pooled(3, nn.AdaptiveAvgPool3d(2)), 2, 4, 4, 4)
    with pytest.raises(ExportError, match=r"adaptive_avg_pool3d of 'adaptive_avg_pool3d' can't") as error:
        write(net, tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def changed(write, change):
    def otherwise(net, body, path):
        write(net, change(body), path)

    return otherwise


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_a_graph_of_torch_that_answers_otherwise_is_refused(format, tmp_path, monkeypatch):
    class Shifted(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return tuple(logits + 1e-3 for logits in self.body(x))

    name = f"write_{format}"
    monkeypatch.setattr(
        eideticnet.export.bundle.graph_file,
        name,
        changed(getattr(eideticnet.export.bundle.graph_file, name), Shifted),
    )
    with pytest.raises(ExportError, match=f"the graph .{format}, nested, float32. does not compute"):
        write(trained(2), tmp_path, format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_prefix_that_answers_otherwise_is_refused(tmp_path, monkeypatch):
    import eideticnet.export.bundle.writer

    def flipped(body, rule, tasks):
        model = onnx.ModelProto()
        model.CopyFrom(prefix(body, rule, tasks))
        bias = next(t for t in model.graph.initializer if t.name.endswith("bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
        return model

    prefix = eideticnet.export.bundle.writer.prefix
    monkeypatch.setattr(eideticnet.export.bundle.writer, "prefix", flipped)
    with pytest.raises(ExportError, match="prefix 1, onnx"):
        write(trained(2), tmp_path, prefixes=[1])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def reference():
    return Reference.of(trained(2))


def answers(reference):
    """What a graph without any fault gives."""

    def run(feeds):
        net, x = reference.net, torch.from_numpy(feeds["x"])
        with torch.no_grad():
            answer = net(x, torch.from_numpy(feeds["pinned_task"]), torch.from_numpy(feeds["threshold"]))
        return {name: value.numpy().copy() for name, value in answer._asdict().items()}

    return run


def spoilt(reference, spoil):
    def run(feeds):
        found = answers(reference)(feeds)
        spoil(found, feeds)
        return found

    return run


def of_a_batch(found, feeds):
    found["logits"] += 1e-3 * (len(feeds["x"]) > 1)


def of_one_task(found, feeds):
    found["logits"][feeds["pinned_task"] == 1] += 1e-3


def of_large_inputs(found, feeds):
    found["logits"][np.abs(feeds["x"]).max(1) > 500] *= 1.001


def to_nan(found, feeds):
    found["logits"][0] = np.nan


def labels(found, feeds):
    found["label"] = 1 - found["label"]


def routing(found, feeds):
    found["task"] = 1 - found["task"]


def probabilities(found, feeds):
    found["task_probs"] = found["task_probs"][:, ::-1]


def test_a_faultless_graph_agrees(reference):
    reference.check(answers(reference), "float32", "a graph")


@pytest.mark.parametrize(
    "spoil", [of_a_batch, of_one_task, of_large_inputs, to_nan, labels, routing, probabilities]
)
def test_whatever_part_of_an_answer_differs_is_seen(reference, spoil):
    with pytest.raises(ExportError, match="a graph"):
        reference.check(spoilt(reference, spoil), "float32", "a graph")


def test_rounding_is_no_difference_where_the_network_itself_rounds_as_much(tmp_path):
    """Differences of large numbers: what float32 loses is far above the tolerance."""
    write(learned(Between(lambda h: torch.sub(h * 1e4 + 1e4, 1e4)), 6), tmp_path)


def test_trials_hold_the_edges_of_the_range_and_nothing_outside():
    net = learned(Between(torch.relu), 6, low=-2.0, high=3.0, mean=(100.0,), std=(7.0,))
    x, near = trial_inputs(net)
    assert near.all()
    assert (x.min(), x.max()) == (-2.0, 3.0)
    assert {(-2.0,) * 6, (3.0,) * 6} <= {tuple(row) for row in x}
    net.inputs.check(torch.from_numpy(x))
    wide, near = trial_inputs(trained(1))
    assert np.abs(wide).max() > 1000
    assert np.abs(wide[near]).max() < 50


def test_a_range_that_the_network_can_not_compute_is_told_when_exporting(tmp_path):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.last = nn.Embedding(5, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.last(self.embed(x)).amax(1)

    x = torch.randint(0, 5, (8, 3))
    net = EideticNetwork(Tokens(), x[:2], inputs=Inputs((3,), "int64", low=0, high=4))
    data = batches(x, torch.arange(8) % 2, 8)
    net.train_task("one", data, names(2), training=QUICK, pruning=LIGHT)
    net.fit_router({"one": data}, training=QUICK, routing=Routing("linear", "joint"))
    wide = replace(net.inputs, high=9)
    with pytest.raises(ExportError, match=r"fails on inputs that its contract allows .*high=9"):
        write(EideticNetwork.restore(Parts(net.program, wide, net.seed, net.learned, {})), tmp_path)


def test_what_was_in_the_folder_stays_when_an_export_fails(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr(eideticnet.export.lowering.to_onnx, "TRANSLATIONS", {})
    with pytest.raises(ExportError):
        write(learned(Pooled(2, nn.AvgPool2d(2, divisor_override=1)), 2, 4, 4), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
