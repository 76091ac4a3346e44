"""The handler answers a batch in one pass; a bad request disturbs nobody."""

import json
import random
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from eidetic_handler import EideticHandler
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.export.archive.reader import read_archive
from tests.support.example_counts import examples
from tests.support.handler_context import HTTP, Context
from tests.support.smallest_archive import small_archive


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def served(request, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    (path,) = store.glob(f"digits-{request.param}-*.mar")
    zipfile.ZipFile(path).extractall(folder)
    handler = EideticHandler()
    handler.initialize(Context(folder))
    archive = read_archive(path)
    return handler, folder, {t.name: archive.probes[t.owner].tolist() for t in archive.tasks}


def ask(served, requests):
    handler, folder, _ = served
    context = Context(folder, [HTTP] * len(requests))
    bodies = [{"body": r if isinstance(r, bytes) else json.dumps(r).encode()} for r in requests]
    answers = [json.loads(a) for a in handler.handle(bodies, context)]
    return answers, context.statuses


def test_answers_name_task_and_label_with_their_probabilities_and_the_version(served):
    probes = served[2]
    (answer,), status = ask(served, [{"data": probes["2 or 3"][0]}])
    assert status == [200]
    assert answer["task"] == "2 or 3"
    assert answer["label"] in ("2", "3")
    assert 0 <= answer["task_probability"] <= 1
    assert 0.5 <= answer["label_probability"] <= 1
    assert (answer["model_version"], answer["unknown"], answer["pinned"]) == ("3.0", False, False)


def test_many_instances_get_a_list_of_answers(served):
    probes = served[2]
    (answer,), _ = ask(served, [{"instances": [probes["0 or 1"][0], probes["4 or 5"][0]]}])
    assert [row["task"] for row in answer["predictions"]] == ["0 or 1", "4 or 5"]


def test_a_pinned_request_is_answered_by_its_task(served):
    probes = served[2]
    (answer,), _ = ask(served, [{"data": probes["0 or 1"][0], "task": "4 or 5"}])
    assert (answer["task"], answer["pinned"]) == ("4 or 5", True)
    assert answer["label"] in ("4", "5")


def test_an_input_that_no_task_claims_is_unknown_under_a_threshold(served):
    (answer,), _ = ask(served, [{"data": [8] * 64, "threshold": 1.0}])
    assert (answer["task"], answer["label"], answer["unknown"]) == (None, None, True)


BAD = [
    b"",
    b"{",
    {"data": [1]},
    {"data": [99] * 64},
    {"instances": [[0] * 64] * 6},
    {"data": [0] * 64, "task": "x"},
]


@examples(10, 25)
@given(seed=st.integers(0, 1000), good=st.integers(1, 8), bad=st.lists(st.sampled_from(BAD), max_size=6))
def test_a_bad_request_never_disturbs_the_others_in_its_batch(served, seed, good, bad):
    rng = random.Random(seed)
    rows = [{"data": row} for row in rng.choices(sum(served[2].values(), []), k=good)]
    alone, _ = ask(served, rows)
    batch = [(row, i) for i, row in enumerate(rows)] + [(row, None) for row in bad]
    rng.shuffle(batch)
    answers, status = ask(served, [row for row, _ in batch])
    for (_, i), answer, code in zip(batch, answers, status, strict=True):
        if i is None:
            assert 400 <= code < 500
            assert set(answer["error"]) == {"kind", "field", "message"}
        else:
            assert code == 200
            assert (answer["task"], answer["label"]) == (alone[i]["task"], alone[i]["label"])


def test_a_batch_of_bad_requests_alone_runs_nothing(served):
    answers, status = ask(served, [b"", b"{"])
    assert status == [400, 400]
    assert all("error" in a for a in answers)


def test_instances_of_several_requests_come_back_to_their_own(served):
    probes = served[2]
    requests = [
        {"instances": [probes[t][i] for i in range(n)]}
        for t, n in (("0 or 1", 3), ("2 or 3", 1), ("4 or 5", 2))
    ]
    together, _ = ask(served, requests)
    apart = [ask(served, [r])[0][0] for r in requests]
    for a, b in zip(together, apart, strict=True):
        assert [r["label"] for r in a["predictions"]] == [r["label"] for r in b["predictions"]]
        assert np.allclose([r["label_probability"] for r in a["predictions"]],
                           [r["label_probability"] for r in b["predictions"]], rtol=0, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("threshold", [0, 1])
def test_numbers_that_overflow_the_network_are_refused_by_their_row_and_disturb_nobody(small, threshold):
    """The label of NaN would be the first one, whatever the threshold."""
    huge, good = [-3.4e38, 3.4e38] * 3, [0.5] * 6
    found, status = ask(
        small,
        [
            {"data": good},
            {"data": huge, "threshold": threshold},
            {"instances": [good, huge], "task": "task 0", "top_k": 1},
            {"inputs": [{"name": "x", "shape": [6], "datatype": "FP32", "data": huge}], "id": "7"},
        ],
    )
    assert status == [200, 400, 400, 400]
    assert found[0]["label"]
    errors = [answer["error"] for answer in found[1:]]
    assert [error["field"] for error in errors] == ["data", "instances[1]", "x[0]"]
    assert all("smaller ones" in error["message"] for error in errors)
    assert found[3]["id"] == "7"
    assert "NaN" not in json.dumps(found)


def test_what_overflows_is_counted_as_refused_and_spoils_no_sum(small, monkeypatch):
    handler = small[0]
    counted = []
    metrics = SimpleNamespace(probes=lambda n: None, batch=lambda *a: None, rows=lambda *a: counted.append(a))
    monkeypatch.setattr(handler.model.telemetry, "_metrics", metrics)
    ask(small, [{"data": [-3.4e38, 3.4e38] * 3}, {"data": [0.5] * 6}])
    ((pinned, task, probabilities),) = counted
    assert (len(pinned), len(task)) == (1, 1)
    assert np.isfinite(probabilities).all()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network whose inputs have no range."""
    folder = tmp_path_factory.mktemp("small")
    zipfile.ZipFile(small_archive(folder / "net.mar")).extractall(folder)
    handler = EideticHandler()
    handler.initialize(Context(folder))
    return handler, folder, {}
