"""The router chooses the task; the chosen head alone chooses the label."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.decision import RouteByLabel, answer, task_log_probabilities
from eideticnet.runs.evaluation import evaluate
from tests.support.small_networks import held_out, task_loader, trained

counts_strategy = st.lists(st.integers(2, 5), min_size=1, max_size=5)


@given(counts=counts_strategy, rows=st.integers(1, 20), seed=st.integers(0, 1000))
def test_the_label_is_always_the_argmax_of_the_chosen_heads_own_logits(counts, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.randn(rows, c, generator=generator) - 5 for c in counts]
    probs = torch.rand(rows, len(counts), generator=generator)
    task = torch.randint(-1, len(counts), (rows,), generator=generator)
    threshold = torch.rand(rows, generator=generator)
    out = answer(heads, probs, task, threshold)
    for i in range(rows):
        chosen = int(task[i]) if task[i] >= 0 else int(probs[i].argmax())
        unknown = bool(task[i] < 0 and probs[i].max() < threshold[i])
        assert int(out.task[i]) == (-1 if unknown else chosen)
        assert int(out.label[i]) == (-1 if unknown else int(heads[chosen][i].argmax()))
        width = counts[chosen]
        assert torch.equal(out.logits[i, :width], heads[chosen][i])
        assert not out.logits[i, width:].any()
        assert not out.label_probs[i, width:].any()
        assert torch.isclose(out.label_probs[i].sum(), torch.tensor(1.0))


@given(counts=counts_strategy, seed=st.integers(0, 1000))
def test_task_probabilities_are_sums_over_each_tasks_classes(counts, seed):
    logits = torch.randn(7, sum(counts), generator=torch.Generator().manual_seed(seed))
    probs = task_log_probabilities(logits, counts).exp()
    assert probs.shape == (7, len(counts))
    assert torch.allclose(probs.sum(1), torch.ones(7))


def test_the_routers_objective_counts_the_right_task_as_correct_whatever_the_label():
    objective = RouteByLabel([2, 3])
    logits = torch.tensor([[9.0, 0, 0, 0, 0], [0, 0, 9.0, 0, 0], [0, 0, 9.0, 0, 0]])
    assert objective.correct(logits, torch.tensor([1, 4, 0])).tolist() == [True, True, False]


def test_pinned_rows_ignore_router_and_threshold():
    net = trained(3)
    x = held_out(6)
    out = net(x, torch.full((6,), 1), torch.ones(6))
    assert out.task.tolist() == [1] * 6
    assert out.label.tolist() == net.task_logits(x, "task 1").argmax(1).tolist()


def test_a_threshold_above_every_confidence_makes_all_rows_unknown():
    net = trained(3)
    out = net(held_out(6), threshold=torch.full((6,), 1.01))
    assert out.task.tolist() == [-1] * 6
    assert out.label.tolist() == [-1] * 6


def test_evaluation_is_the_mean_over_classes_and_routed_is_never_above_oracle_or_found():
    net = trained(3)
    loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
    for report in evaluate(net, loaders).values():
        assert 0 <= report.routed <= min(report.oracle, report.found) + 1e-12
        assert max(report.oracle, report.found) <= 1


def test_evaluation_weighs_a_rare_class_as_much_as_a_frequent_one():
    net = trained(1)
    x = held_out(40)
    predicted = net.task_logits(x, "task 0").argmax(1)
    y = predicted.clone()
    first = int((predicted == 0).nonzero()[0])
    y[:] = 0
    y[first] = 1
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 16)
    right = (predicted == y).double()
    expected = (right[y == 0].mean() + right[y == 1].mean()) / 2
    assert evaluate(net, {"task 0": loader})["task 0"].oracle == pytest.approx(float(expected))
