"""Every payload over real HTTP and gRPC, alone and together with bad ones."""

import concurrent.futures
import io
import json
import random
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from eideticnet.runs.images import read_image
from tests.support.bare_torchserve import workers
from tests.support.pictures import IMAGE, picture
from tests.support.torchserve_grpc import INFERENCE, Caller
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
JSON, RAW, NPY, PNG = "application/json", "application/octet-stream", "application/x-npy", "image/png"


@pytest.fixture(scope="module")
def grpc(engine):
    caller = Caller(f"{INFERENCE}.InferenceAPIsService", engine.grpc, engine.key)
    yield caller
    caller.close()


@pytest.fixture(scope="module")
def http(engine):
    headers = {"Authorization": f"Bearer {engine.key}"}
    with httpx.Client(base_url=engine.url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        yield client


def by_query(engine):
    """Where only TorchServe takes options."""
    return [engine.name] if engine.name == "torchserve" else []


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def ask(http, content, kind, model="digits-onnx", path="/predictions/", **headers):
    headers = {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
    response = http.post(path + model, content=content, headers=headers)
    return response.status_code, response.json()


def as_json(values, **options):
    return json.dumps({"data": values.tolist(), **options}).encode()


def same(one, other):
    """Whether two answers agree: exactly what was chosen, and probabilities up to the batch's rounding."""
    numbers = ("task_probability", "label_probability")
    if "error" in one or "error" in other:
        return False
    chosen = [{k: v for k, v in answer.items() if k not in numbers} for answer in (one, other)]
    return chosen[0] == chosen[1] and all(abs(one[n] - other[n]) < 1e-5 for n in numbers)


def test_every_payload_gets_the_same_answer(engine, http, grpc, x):
    for row in x[::3]:
        _, expected = ask(http, as_json(row), JSON)
        found = [
            ask(http, row.tobytes(), RAW)[1],
            ask(http, npy(row.astype(">f8")), NPY)[1],
            http.post("/predictions/digits-onnx", files={"data": ("x.npy", npy(row))}).json(),
            http.post("/predictions/digits-onnx", files={"data": ("x", row.tobytes(), RAW)}).json(),
            http.post("/predictions/digits-onnx", data={"data": as_json(row).decode()}).json(),
            *(ask(http, row.tobytes(), RAW, path="/invocations?model_name=")[1] for _ in by_query(engine)),
            *(json.loads(grpc("Predictions", model_name="digits-onnx", input=entries).prediction)
              for entries in ({"data": as_json(row)}, {"data": npy(row)},
                              {"body": row.tobytes(), "content_type": RAW.encode()})),
        ]  # fmt: skip
        assert [(i, a) for i, a in enumerate(found) if not same(a, expected)] == []


def test_many_instances_get_a_list_in_their_order(http, grpc, x):
    alone = [ask(http, as_json(row), JSON)[1] for row in x[:4]]
    for content, kind in (
        (json.dumps({"instances": x[:4].tolist()}).encode(), JSON),
        (x[:4].tobytes(), RAW),
        (npy(np.asfortranarray(x[:4])), NPY),
    ):
        _, answer = ask(http, content, kind)
        by_grpc = grpc(
            "Predictions", model_name="digits-onnx", input={"data": content, "content_type": kind.encode()}
        )
        for rows in (answer["predictions"], json.loads(by_grpc.prediction)["predictions"]):
            assert all(same(a, b) for a, b in zip(rows, alone, strict=True))


def test_options_reach_the_network_from_every_place(engine, http, grpc, x):
    row, task = x[0], "4 or 5"
    options = {"task": task, "top_k": "1", "probabilities": "true"}
    headers = {"eidetic_task": "4%20or%205", "eidetic_top_k": "1", "eidetic_probabilities": "true"}
    form = {"files": {"data": ("x.npy", npy(row), NPY)}, "data": options}
    query = "/invocations?task=4%20or%205&top_k=1&probabilities=true&model_name="
    entries = {name: value.encode() for name, value in options.items()}
    found = [
        ask(http, as_json(row, task=task, top_k=1, probabilities=True), JSON)[1],
        ask(http, row.tobytes(), RAW, **headers)[1],
        http.post("/predictions/digits-onnx", **form).json(),
        *(ask(http, row.tobytes(), RAW, path=query)[1] for _ in by_query(engine)),
        json.loads(
            grpc("Predictions", model_name="digits-onnx", input={"data": as_json(row), **entries}).prediction
        ),
    ]
    for answer in found:
        assert (answer["task"], answer["pinned"]) == (task, True)
        assert answer["top"] == [{"label": answer["label"], "probability": answer["label_probability"]}]
        assert set(answer["label_probabilities"]) == {"4", "5"}
        assert sum(answer["label_probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["task_probabilities"][task] == answer["task_probability"]


def test_a_request_that_nobody_waits_for_any_more_is_answered_408(http, grpc, x):
    past = f"{time.time() * 1000 - 5:.0f}"
    status, answer = ask(http, x[0].tobytes(), RAW, eidetic_deadline_ms=past)
    assert (status, answer["error"]["kind"], answer["error"]["field"]) == (408, "expired", "deadline_ms")
    entries = {"data": as_json(x[0]), "deadline_ms": past.encode()}
    answer = json.loads(grpc("Predictions", model_name="digits-onnx", input=entries).prediction)
    assert answer["error"]["kind"] == "expired"
    future = f"{time.time() * 1000 + 3_600_000:.0f}"
    assert ask(http, x[0].tobytes(), RAW, eidetic_deadline_ms=future)[0] == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_over_http_and_grpc_is_the_x_that_training_reads(http, grpc, tmp_path, kind):
    sent, media = picture("blue", 7, kind=kind), f"image/{kind.lower()}"
    (tmp_path / "file").write_bytes(sent)
    x = read_image(tmp_path / "file", IMAGE).numpy()
    options = {"probabilities": True, "top_k": 2}
    expected = http.post("/predictions/colours", json={"data": x.tolist(), **options}).json()
    headers = {"eidetic_probabilities": "true", "eidetic_top_k": "2"}
    texts = {"probabilities": b"true", "top_k": b"2"}
    entries = {"data": sent, **texts}
    found = [
        ask(http, x.tobytes(), RAW, "colours", **headers)[1],
        ask(http, sent, media, "colours", **headers)[1],
        http.post("/predictions/colours", files={"data": ("a", sent)}, data=texts).json(),
        json.loads(grpc("Predictions", model_name="colours", input=entries).prediction),
    ]
    assert [answer == expected for answer in found] == [True] * 4  # alone in a batch of one: the same bits


BAD = [
    ({"content": b"not json", "kind": JSON}, 400, "bad_request"),
    ({"content": b"", "kind": RAW}, 400, "bad_request"),
    ({"content": bytes(255), "kind": RAW}, 400, "bad_request"),
    ({"content": b"\xff" * 256, "kind": RAW}, 400, "bad_request"),
    ({"content": bytes(256 * 6), "kind": RAW}, 413, "too_large"),
    ({"content": npy(np.array([{}]))[:99], "kind": NPY}, 400, "bad_request"),
    ({"content": b"x", "kind": "text/plain"}, 415, "unsupported_media_type"),
    ({"content": picture("red", 0), "kind": PNG}, 415, "unsupported_media_type"),
    ({"content": picture("red", 0)[:90], "kind": PNG, "model": "colours"}, 400, "bad_request"),
    ({"content": bytes(256), "kind": RAW, "eidetic_task": "%ff"}, 400, "bad_request"),
    ({"content": bytes(256), "kind": RAW, "eidetic_deadline_ms": "1"}, 408, "expired"),
]


@pytest.mark.parametrize(("request_", "status", "kind"), BAD)
def test_a_bad_request_gets_its_own_status(http, request_, status, kind):
    found, answer = ask(http, **request_)
    assert (found, answer["error"]["kind"]) == (status, kind)
    assert set(answer["error"]) == {"kind", "field", "message"}


def test_hundreds_of_good_and_bad_requests_of_every_payload_at_once_disturb_nobody(http, engine, x):
    alone = [ask(http, as_json(row), JSON)[1] for row in x]
    shades = [picture(c, i) for i, c in enumerate(("red", "blue"))]
    seen = [ask(http, sent, PNG, "colours")[1] for sent in shades]
    before = set(engine.workers())

    def send(i):
        rng = random.Random(i)
        if rng.random() < 0.4:
            sent, status, _ = rng.choice(BAD)
            return ask(http, **sent)[0] == status
        if rng.random() < 0.2:
            which = rng.randrange(2)
            return same(ask(http, shades[which], PNG, "colours")[1], seen[which])
        which = rng.randrange(len(x))
        content, kind = rng.choice(
            [(as_json(x[which]), JSON), (x[which].tobytes(), RAW), (npy(x[which]), NPY)]
        )
        return same(ask(http, content, kind)[1], alone[which])

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert all(pool.map(send, range(400)))
    assert set(engine.workers()) == before


@pytest.mark.parametrize("engine", ["torchserve"], indirect=True)  # whose own it is
def test_a_streaming_call_ends_after_one_answer_and_kills_no_worker(grpc, server, x):
    before = set(workers(server))
    for sent in (as_json(x[0]), b"bad"):
        (answer,) = grpc("StreamPredictions", model_name="digits-onnx", input={"data": sent})
        assert json.loads(answer.prediction).keys() & {"label", "error"}
    assert set(workers(server)) == before
