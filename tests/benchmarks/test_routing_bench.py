"""What ``make bench-routing`` chooses by, and the graph of the plain network that is served for
comparison."""

import numpy as np
import onnxruntime
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.answers import published, widest
from benchmarks.routing import LOSS, choose
from benchmarks.serving.nets import as_served
from eideticnet.arithmetic import arithmetic
from eideticnet.block import Block
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.learned import ROUTER, Learned
from eideticnet.program import HEAD
from eideticnet.rules import with_taps
from tests.support.small_networks import trained

rows = st.lists(st.tuples(st.floats(0.9, 1.0), st.floats(0.1, 4.0)), min_size=1, max_size=6)


@given(rows)
def test_the_rule_takes_the_cheapest_router_within_the_stated_loss_of_the_best(rows):
    listed = [
        {"router": f"r{i}", "decision": "joint", "data": "all", "validation": v, "multiply_adds": m}
        for i, (v, m) in enumerate(rows)
    ]
    chosen = choose({"one": [{"rows": listed}]}, "all")
    (index,) = [i for i, row in enumerate(listed) if row["router"] == chosen[0]]
    best = max(v for v, _ in rows)
    assert rows[index][0] >= best - LOSS
    assert all(m >= rows[index][1] for v, m in rows if v >= best - LOSS)


@given(st.lists(st.tuples(st.floats(0.9, 1.0), st.floats(0.5, 2.0), st.floats(0.5, 2.0)), min_size=1))
def test_the_answer_that_is_published_is_the_most_accurate_of_those_no_dearer_than_the_plain_network(points):
    points[0] = (*points[0][:2], 0.9)  # one at least multiplies no more
    spent = {
        str(i): {"validation": [v - 0.01, v + 0.01], "madds": [madds] * 2}
        for i, (v, _, madds) in enumerate(points)
    }
    chosen = int(published(spent, lambda name: {"time": [points[int(name)][1]] * 2}))
    cheap = [i for i, (*_, madds) in enumerate(points) if madds <= 1]
    fast = [i for i in cheap if points[i][1] <= 1]
    assert chosen in (fast or cheap)
    assert points[chosen][0] >= max(points[i][0] for i in fast or cheap) - 1e-9


def test_a_point_of_the_curve_is_as_wide_as_its_share_allows():
    net = trained(2, router=False)
    least = arithmetic(net.learned, net.program, net.inputs).share
    for share in (least + 0.3, least + 0.6):
        width = widest(net, share)

        def cost(width):
            program, blocks = with_taps(net.program), [net.learned.block(t.owner) for t in net.tasks]
            own = {**dict.fromkeys(program.groups, width), HEAD: 5}
            widths = {**{b.owner: b.widths[b.owner] for b in blocks}, ROUTER: own}
            router = Block(program, ROUTER, tuple(b.owner for b in blocks), widths)
            return arithmetic(Learned(net.tasks, [*blocks, router]), net.program, net.inputs).share

        assert cost(width) <= share
        assert width == min(net.program.groups.values()) or cost(width + 1) > share


def test_the_plain_network_that_is_served_is_asked_as_ours_is_and_answers_its_greatest_logit():
    torch.manual_seed(0)
    plain = nn.Linear(6, 4).eval()
    graph = as_served(to_onnx(plain, torch.zeros(3, 6), ["plain"])).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    x = torch.randn(7, 6)
    asked = {"x": x.numpy(), "pinned_task": np.full(7, -1), "threshold": np.zeros(7, np.float32)}
    task, label = session.run(["task", "label"], asked)
    assert task.tolist() == [0] * 7
    assert label.tolist() == plain(x).argmax(1).tolist()
