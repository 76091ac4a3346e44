"""A worker keeps plain dicts: what it writes and what it takes is what the contract's models say."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eidetic_runtime import options
from eidetic_runtime.contract import Contract
from eidetic_runtime.errors import STATUS, BadRequest
from eideticnet.client import Client
from eideticnet.client.answers import rows
from eideticnet.contract.answers import Answer, Answers, Choice, Failure
from eideticnet.contract.bundle import Bundle
from eideticnet.contract.options import YEAR_10000, RequestOptions
from eideticnet.contract.parts import json_schema
from eideticnet.serving.deploys.probes import ProbeError, Prober
from eideticnet.serving.errors import RequestError
from eideticnet.serving.questions import Question
from tests.support.example_counts import examples
from tests.support.handler_worker import Worker, make_bundle

X = [0.5] * 6
NEVER = YEAR_10000 - 1
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "task": st.none() | st.sampled_from(["task 0", "task 2"]),
        "threshold": st.none() | st.floats(0, 1) | st.sampled_from([0, 1]),
        "top_k": st.none() | st.integers(1, 9),
        "probabilities": st.none() | st.booleans(),
        "deadline_ms": st.none() | st.just(NEVER),
    },
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 62), 1 << 62)
    | st.sampled_from([0, 1, -1, NEVER, NEVER + 1, float(NEVER), 1 << 62])
    | st.floats(-2, 3)
    | st.sampled_from(["", "task 0", "true", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    return Worker(make_bundle(tmp_path_factory.mktemp("contract") / "small"))


def exactly(model):
    """The keys that ``model`` knows: a client passes others over, and a worker writes none."""
    return set(model.model_fields)


@examples(60, 300)
@given(GIVEN, st.integers(1, 3))
def test_every_answer_of_a_worker_is_one_of_the_contract(worker, given, instances):
    sent = {"data": X} if instances == 1 else {"instances": [X] * instances}
    (reply,) = worker.ask([{**sent, **given}])
    assert reply.status == 200
    text = json.dumps(reply.body)
    if instances > 1:
        assert list(reply.body) == ["predictions"]
        found = Answers.model_validate_json(text).predictions
    else:
        found = (Answer.model_validate_json(text),)
    assert list(found) == rows(200, text.encode())
    for answer, row in zip(found, reply.body.get("predictions", [reply.body]), strict=True):
        assert exactly(Answer) >= row.keys() >= {n for n, f in Answer.model_fields.items() if f.is_required()}
        assert json.loads(answer.model_dump_json(exclude_unset=True)) == row
        assert all(exactly(Choice) == choice.keys() for choice in row.get("top", ()))


def test_tensors_hold_the_same_answers_and_errors(worker):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 6], "data": X}
    good, bad = worker.ask(
        [{"id": "1", "inputs": [tensor]}, {"id": "2", "inputs": [{**tensor, "data": [1]}]}]
    )
    outputs = {output["name"]: output["data"] for output in good.body["outputs"]}
    assert Answer.model_validate(outputs["answer"][0]).model_version == "3.0"
    (failed,) = bad.body["outputs"]
    assert Failure.model_validate({"error": failed["data"][0]}).error.kind == "bad_request"


@pytest.mark.parametrize("kind", STATUS)
def test_every_kind_of_error_is_one_of_the_contract(kind):
    written = BadRequest("data", "is wrong", kind).to_json()
    assert Failure.model_validate(written).error.kind == kind
    assert Failure.model_validate(written).model_dump() == written


@examples(60, 300)
@given(st.binary(max_size=30) | ANYTHING.map(lambda value: json.dumps({"data": value}).encode()))
def test_what_a_worker_refuses_is_told_as_the_contract_says(worker, body):
    (reply,) = worker.ask([body])
    assert reply.status != 200
    assert Failure.model_validate(reply.body).error.kind in STATUS


def test_a_worker_knows_the_options_of_the_contract_and_no_others():
    assert tuple(RequestOptions.model_fields) == options.NAMES
    assert options.LATEST == YEAR_10000


@examples(300, 2000)
@given(st.sampled_from(options.NAMES), ANYTHING)
def test_a_worker_takes_the_options_that_the_model_takes(worker, name, value):
    try:
        options.read({name: value}, Contract.of(worker.bundle))
        refused = False
    except BadRequest as error:
        refused = error.kind != "expired"  # which the clock says
    try:
        asked = RequestOptions.model_validate({name: value})
        known = asked.task in {None, *(task["name"] for task in worker.bundle["tasks"])}
    except ValidationError:
        known = False
    assert refused != known


def test_a_worker_reads_a_bundle_with_the_defaults_of_the_model(worker):
    least = json.loads(Bundle.model_validate(worker.bundle).to_json())
    for part, key in (("input", "low"), ("input", "high"), ("routing", "threshold")):
        least[part].pop(key, None)
    found, model = Contract.of(least), Bundle.model_validate(least)
    assert (found.threshold, found.image) == (model.routing.threshold, model.input.image)


def test_every_model_says_in_one_line_what_each_of_its_fields_means():
    for model in (Answers, Failure, RequestOptions):
        schema = json_schema(model)
        for part in (schema, *schema.get("$defs", {}).values()):
            assert all(field["description"].endswith(".") for field in part["properties"].values())


GOOD = {
    "task": "a",
    "label": "b",
    "unknown": False,
    "pinned": False,
    "model_version": "1.0",
    "task_probability": 0.5,
    "label_probability": 1,
}
WRONG = [
    ({"label": 3}, "label is 3: it should be a valid string"),
    ({"unknown": "no"}, "unknown is 'no': it should be a valid boolean"),
    ({"label_probability": 1.5}, "label_probability is 1.5"),
    ({"task_probability": "0.5"}, "task_probability is '0.5': it should be a valid number"),
    ({"top": [{"label": "b"}]}, "top[0].probability is missing"),
    ({"task_probabilities": {"a": None}}, "task_probabilities.a is None"),
]
NONE = dict.fromkeys(("task", "label", "label_probability"))


@pytest.mark.parametrize(("change", "words"), WRONG)
@pytest.mark.parametrize("many", [False, True])
def test_an_answer_of_another_type_is_an_error_that_names_the_field(change, words, many):
    row = {**GOOD, **change}
    body = {"predictions": [GOOD, row]} if many else row
    with pytest.raises(RequestError) as error:
        rows(200, json.dumps(body).encode())
    assert ("predictions[1]." if many else "") + words in str(error.value)
    assert "expected: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("body", [{}, [], 3, "x", {"predictions": 3}, {"predictions": [3]}, {"label": "a"}])
def test_what_is_no_answer_at_all_is_an_error_too(body):
    with pytest.raises(RequestError):
        rows(200, json.dumps(body).encode())
    with pytest.raises(RequestError):
        rows(200, b"<html>")


def test_an_error_beside_an_answer_is_an_error():
    told = {"error": {"kind": "internal", "field": "data", "message": "failed"}}
    with pytest.raises(RequestError, match="the server answered 500: data: failed"):
        rows(200, json.dumps({**GOOD, **told}).encode())
    assert rows(200, json.dumps({**GOOD, "label": "error"}).encode())[0].label == "error"


def test_what_a_newer_server_adds_is_passed_over():
    (answer,) = rows(200, json.dumps({**GOOD, "colour": "red", "top": []}).encode())
    assert (answer.label, answer.top, answer.label_probability) == ("b", (), 1.0)


@contextmanager
def answering(body):
    """The address of a server that answers everything with ``body``."""

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_client_says_which_field_of_a_servers_answer_is_wrong():
    with answering({**GOOD, "label": 3}) as url, Client(url, "key") as client:
        words = "label is 3: it should be a valid string; expected: The class"
        with pytest.raises(RequestError, match=words):
            client.predict("m", [1.0])


COUNTED = [(0, r"predictions is \[\]: it should have at least 1 item"), (2, "answered 2 rows; expected 1")]


@pytest.mark.parametrize(("count", "words"), COUNTED)
def test_a_probe_that_is_answered_by_another_number_of_rows_has_failed(count, words):
    with answering({"predictions": [GOOD] * count}) as url, Prober(url, "key") as prober:
        with pytest.raises(ProbeError, match=f"m 1.0.*{words}"):
            prober.ask("m", "1.0", Question(np.zeros(6, "f4")))


@pytest.mark.parametrize(
    ("x", "count", "words"),
    [
        (np.zeros((3, 6)), 2, "it holds 2 answers; expected 1 or 3, one for each instance"),
        (np.zeros((3, 6)), 0, "it should have at least 1 item"),
        (np.zeros(6), 2, "it holds 2 answers; expected 1 or 6"),
        (0.5, 2, "it holds 2 answers; expected 1, one"),
        (b"\x89PNG\r\n\x1a\n", 2, "it holds 2 answers; expected 1, one"),
    ],
)
def test_a_client_refuses_another_number_of_answers_than_of_instances(x, count, words):
    with answering({"predictions": [GOOD] * count}) as url, Client(url, "key") as client:
        with pytest.raises(RequestError, match=words):
            client.predict("m", x)


@pytest.mark.parametrize("change", [{"task": None}, {"label": None}, {"unknown": True}, NONE])
@pytest.mark.parametrize("many", [False, True])
def test_an_answer_that_contradicts_itself_is_an_error(change, many):
    row = {**GOOD, **change}
    with pytest.raises(RequestError, match="null if it is unknown, and only then"):
        rows(200, json.dumps({"predictions": [GOOD, row]} if many else row).encode())
    assert rows(200, json.dumps({**GOOD, **NONE, "unknown": True}).encode())[0].unknown


def test_what_holds_predictions_is_never_read_as_one_answer():
    with pytest.raises(RequestError, match="predictions is 3: it should be a list"):
        rows(200, json.dumps({**GOOD, "predictions": 3}).encode())
