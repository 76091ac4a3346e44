"""The Open Inference Protocol over gRPC, as TorchServe passes it on, and its errors."""

import json
import time

import grpc as grpcio
import httpx
import numpy as np
import pytest

from tests.support.bare_torchserve import workers
from tests.support.torchserve_grpc import OPEN_INFERENCE, Caller
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def call(open_server):
    key = open_server.keys()["inference"]
    caller = Caller(f"{OPEN_INFERENCE}.GRPCInferenceService", open_server.ports.grpc_inference, key)
    yield caller
    caller.close()


@pytest.fixture(scope="module")
def x(archive):
    return np.concatenate([archive.probes[t.owner][:2] for t in archive.tasks])[:5]


def tensor(array, name="x", datatype="FP32", **contents):
    contents = contents or {"fp32_contents": array.ravel().tolist()}
    return {"name": name, "datatype": datatype, "shape": array.shape, "contents": contents}


def option(name, datatype, **contents):
    return {"name": name, "datatype": datatype, "shape": [1], "contents": contents}


def infer(call, *inputs, **others):
    return call("ModelInfer", model_name="digits-onnx", inputs=inputs, **others)


def output(response, name):
    """One tensor of a response, as (shape, elements)."""
    (found,) = (t for t in response.outputs if t.name == name)
    kinds = {"INT64": "int64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
    return list(found.shape), list(getattr(found.contents, kinds[found.datatype]))


def test_the_server_is_live_and_ready_and_names_its_model(call):
    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ModelReady", name="digits-onnx").ready
    told = call("ModelMetadata", name="digits-onnx")
    assert (told.name, list(told.versions)) == ("digits-onnx", ["3.0"])
    with pytest.raises(grpcio.RpcError) as error:
        call("ModelMetadata", name="nobody")
    assert error.value.code() == grpcio.StatusCode.NOT_FOUND


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "UINT8"])
def test_tensors_go_in_and_out(call, open_server, archive, x, datatype):
    names = {"FP32": "fp32", "FP64": "fp64", "INT64": "int64", "UINT8": "uint"}
    values = (x if datatype.startswith("FP") else x.round().astype(int)).ravel().tolist()
    shape = np.zeros((len(x), 64))
    response = infer(
        call, tensor(shape, datatype=datatype, **{f"{names[datatype]}_contents": values}), id="7"
    )
    assert (response.model_name, response.model_version, response.id) == ("digits-onnx", "3.0", "7")
    rows = np.array(values, np.float32).reshape(shape.shape).tolist()
    url = f"{open_server.ports.inference_url}/predictions/digits-onnx"
    key = {"Authorization": f"Bearer {open_server.keys()['inference']}"}
    expected = httpx.post(
        url, json={"instances": rows}, headers=key, timeout=PATIENCE, trust_env=False
    ).json()["predictions"]
    assert [json.loads(row) for row in output(response, "answer")[1]] == expected
    tasks, labels = output(response, "task")[1], output(response, "label")[1]
    names = [archive.tasks[t].name for t in tasks]
    assert names == [row["task"] for row in expected]
    assert [archive.tasks[t].classes[k] for t, k in zip(tasks, labels, strict=True)] == [
        row["label"] for row in expected
    ]
    assert output(response, "task_probability") == (
        [len(x)],
        pytest.approx([row["task_probability"] for row in expected]),
    )


def test_options_are_tensors_beside_x(call, x):
    soon = int(time.time() * 1000) + 3_600_000
    response = infer(
        call,
        tensor(x[:1]),
        option("task", "BYTES", bytes_contents=[b"4 or 5"]),
        option("threshold", "FP32", fp32_contents=[0.0]),
        option("top_k", "INT64", int64_contents=[1]),
        option("probabilities", "BOOL", bool_contents=[True]),
        option("deadline_ms", "INT64", int64_contents=[soon]),
    )
    (answer,) = map(json.loads, output(response, "answer")[1])
    assert (answer["task"], answer["pinned"], len(answer["top"])) == ("4 or 5", True, 1)
    assert set(answer["label_probabilities"]) == {"4", "5"}


def test_what_was_not_computed_is_zero_and_kills_no_worker(call, x):
    response = infer(call, tensor(x[:1]), option("task", "BYTES", bytes_contents=[b"4 or 5"]))
    assert json.loads(output(response, "answer")[1][0])["task_probability"] is None
    assert output(response, "task_probability") == ([1], [0.0])


def test_none_of_mine_is_minus_one(call, x):
    response = infer(call, tensor(np.full((1, 64), 8.0)), option("threshold", "FP32", fp32_contents=[1.0]))
    assert (output(response, "task"), output(response, "label")) == (([1], [-1]), ([1], [-1]))
    assert json.loads(output(response, "answer")[1][0])["unknown"] is True


ONE = tensor(np.zeros((1, 64)))
BAD = {
    "no inputs": ([], "x", "missing"),
    "another name": ([tensor(np.zeros((1, 64)), "y")], "x", "missing"),
    "shape": ([tensor(np.zeros((1, 63)))], "x", "expected [64]"),
    "negative shape": ([{**ONE, "shape": [-1, 64]}], "x", "at least one"),
    "contents of another size": ([{**tensor(np.zeros((1, 63))), "shape": [1, 64]}], "x", "has shape [63]"),
    "raw contents": ([{**ONE, "contents": {}}], "x", "raw_input_contents"),
    "datatype": ([tensor(np.zeros((1, 64)), datatype="BOOL", bool_contents=[True])], "x", "'BOOL'"),
    "out of range": ([tensor(np.full((1, 64), 99.0))], "x[0][0]", "from 0"),
    "too many": ([tensor(np.zeros((6, 64)))], "x", "at most 5"),
    "twice": ([ONE, ONE], "x", "twice"),
    "unknown task": ([ONE, option("task", "BYTES", bytes_contents=[b"9"])], "task", "'9'"),
    "no text": ([ONE, option("task", "BYTES", bytes_contents=[b"\xff"])], "task", "UTF-8"),
    "another option": ([ONE, option("tsak", "INT64", int64_contents=[1])], "tsak", "unexpected"),
    "expired": ([ONE, option("deadline_ms", "INT64", int64_contents=[1])], "deadline_ms", "ago"),
}


@pytest.mark.parametrize(("inputs", "field", "words"), BAD.values(), ids=BAD)
def test_an_error_is_a_whole_response_and_kills_no_worker(call, open_server, x, inputs, field, words):
    before = set(workers(open_server))
    raw = {"raw_input_contents": [bytes(256)]} if words == "raw_input_contents" else {}
    response = infer(call, *inputs, id="ü", **raw)
    assert (response.model_name, response.id, len(response.outputs)) == ("digits-onnx", "ü", 1)
    error = json.loads(output(response, "error")[1][0])
    assert error["field"] == field
    assert words in error["message"]
    assert len(output(infer(call, tensor(x)), "answer")[1]) == len(x)
    assert set(workers(open_server)) == before


def test_over_http_it_answers_and_errs_as_over_grpc(open_server, x):
    """With the same fields, but ``data`` for the contents of every type."""
    url = f"{open_server.ports.inference_url}/v2/models/digits-onnx/infer"
    key = {"Authorization": f"Bearer {open_server.keys()['inference']}"}

    def ask(shape, *options):
        sent = {"name": "x", "datatype": "FP32", "shape": shape, "data": x.ravel().tolist()}
        body = {"id": "7", "inputs": [sent, *options]}
        return httpx.post(url, json=body, headers=key, timeout=PATIENCE, trust_env=False)

    predictions = f"{open_server.ports.inference_url}/predictions/digits-onnx"
    plain = httpx.post(
        predictions, json={"instances": x.tolist()}, headers=key, timeout=PATIENCE, trust_env=False
    ).json()
    found = ask(list(x.shape))
    assert found.status_code == 200
    outputs = {t["name"]: t["data"] for t in found.json()["outputs"]}
    assert (found.json()["id"], outputs["answer"]) == ("7", plain["predictions"])
    wrong = ask([len(x), 63])
    assert wrong.status_code == 400
    assert wrong.json()["error"]["field"] == "x"
    assert httpx.post(url, json={}, headers=key, timeout=PATIENCE, trust_env=False).status_code == 400
    assert (
        httpx.post(url, json={"inputs": []}, timeout=PATIENCE, trust_env=False).status_code == 400
    )  # without the key
