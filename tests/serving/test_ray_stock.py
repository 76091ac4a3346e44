"""The Open Inference Protocol over HTTP as stock clients speak it, with Triton's own."""

import json

import httpx
import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from eideticnet.export.archive.reader import read_archive
from tests.support.ray_replica import TOKEN, replica
from tests.support.waiting import PATIENCE

KEY = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def served(versions):
    with replica([versions["1.0"], versions["2.0"]]) as found:
        yield found


@pytest.fixture(scope="module")
def http(served):
    with httpx.Client(base_url=served[1], headers=KEY, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def x(versions):
    archive = read_archive(versions["1.0"])
    return np.concatenate(list(archive.probes.values()))[:4].astype("<f4")


@pytest.fixture(scope="module")
def stock(served):
    """Triton's client, as it comes."""
    with triton.InferenceServerClient(served[1].removeprefix("http://")) as client:
        yield client


def tensor(array, *, binary=True, datatype="FP32", name="x"):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_a_stock_client_finds_the_server_live_and_the_model_ready_and_described(stock):
    assert stock.is_server_live(KEY)
    assert stock.is_server_ready(KEY)
    assert stock.is_model_ready("net", headers={**KEY})
    assert stock.is_model_ready("net", "2.0", KEY)
    assert not stock.is_model_ready("nobody", headers={**KEY})
    assert stock.get_server_metadata(KEY)["name"] == "eideticnet"
    told = stock.get_model_metadata("net", "2.0", KEY)
    assert (told["versions"], told["platform"]) == (["1.0", "2.0"], "onnxruntime_onnx")
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}]
    assert [output["datatype"] for output in told["outputs"]] == ["INT64", "INT64", "FP32", "FP32", "BYTES"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("version", ["", "2.0"])
def test_a_stock_client_gets_what_a_prediction_says(stock, http, x, binary, version):
    plain = http.post(f"/predictions/net/{version or '1.0'}", json={"instances": x.tolist()}).json()[
        "predictions"
    ]
    wanted = ("answer", "label", "task_probability")
    found = stock.infer(
        "net",
        [tensor(x, binary=binary)],
        version,
        outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in wanted],
        request_id="7",
        headers={**KEY},  # Triton adds its own to what it is given
    )
    response = found.get_response()
    assert (response["model_name"], response["id"]) == ("net", "7")
    assert [output["name"] for output in response["outputs"]] == list(wanted)
    assert [json.loads(each) for each in found.as_numpy("answer")] == plain
    assert found.as_numpy("task_probability").tolist() == pytest.approx(
        [row["task_probability"] for row in plain]
    )
    whole = stock.infer("net", [tensor(x, binary=binary)], version, headers={**KEY})
    assert whole.as_numpy("label").tolist() == found.as_numpy("label").tolist()
    assert whole.as_numpy("task").dtype == np.int64


def test_options_are_parameters_or_tensors_for_a_stock_client(stock, served, x):
    task = served[0].models.find("net").bundle["tasks"][0]["name"]
    by_parameter = stock.infer("net", [tensor(x)], parameters={"task": task, "top_k": 1}, headers={**KEY})
    named = tensor(np.array([task.encode()], object), datatype="BYTES", name="task")
    count = tensor(np.array([1]), datatype="INT64", name="top_k")
    by_tensor = stock.infer("net", [tensor(x.astype("f8"), datatype="FP64"), named, count], headers={**KEY})
    answers = [[json.loads(row) for row in found.as_numpy("answer")] for found in (by_parameter, by_tensor)]
    assert answers[0] == answers[1]
    assert {(answer["task"], answer["pinned"], len(answer["top"])) for answer in answers[0]} == {
        (task, True, 1)
    }


def one(datatype="FP32", shape=(1, 6), **others):
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, **others}]}


SIZED = {"parameters": {"binary_data_size": 24}}
BAD = {
    "shape": (one(shape=[1, 5], data=[0] * 5), "x: has shape"),
    "datatype": (one("BOOL", data=[0] * 6), "x: has datatype"),
    "no inputs": ({"inputs": 1}, "inputs: holds 1"),
    "output": ({"inputs": [], "outputs": [{"name": "y"}]}, "outputs: names 'y'"),
    "no output": ({"inputs": [], "outputs": [7]}, "outputs: names 'None'"),
    "size": (one(**SIZED), "x: has binary_data_size 24; 0 bytes are left"),
    "no JSON": (b"{", "body: is not JSON"),
}


@pytest.mark.parametrize(("body", "words"), BAD.values(), ids=BAD)
def test_an_error_of_the_protocol_is_text_that_names_field_and_fault(http, body, words):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.post("/v2/models/net/infer", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(words)
    assert answer.json()["kind"] == "bad_request"


def test_binary_tensors_that_lie_are_bad_requests(http):
    head = json.dumps(one(**SIZED)).encode()
    for length, rest, words in (
        (len(head), bytes(25), "1 bytes behind"),
        (len(head), bytes(23), "has binary_data_size 24"),
        (len(head) + 99, bytes(24), "inference-header-content-length"),
        ("x", bytes(24), "inference-header-content-length"),
    ):
        headers = {"Inference-Header-Content-Length": str(length)}
        answer = http.post("/v2/models/net/infer", content=head + rest, headers=headers)
        assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    whole = {"Inference-Header-Content-Length": str(len(head))}
    assert http.post("/v2/models/net/infer", content=head + bytes(24), headers=whole).status_code == 200


def test_a_stock_client_raises_the_servers_words(stock, x):
    with pytest.raises(InferenceServerException, match="x: has shape"):
        stock.infer("net", [tensor(x[:, :5])], headers={**KEY})
    with pytest.raises(InferenceServerException, match="no valid token"):
        stock.infer("net", [tensor(x)])
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        stock.infer("nobody", [tensor(x)], headers={**KEY})
