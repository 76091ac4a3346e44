"""TorchServe and Ray Serve, asked the same: the same bytes, since both hand a request to the same runtime;
and what Ray Serve has beside it. (``test_payloads`` asks both far more.)"""

import gzip
import json

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from eideticnet.client import Client, GrpcClient, OpenInference
from eideticnet.serving.errors import RequestError, WrongKeyError
from tests.serving.test_payloads import BAD, JSON, NPY, PNG, RAW, npy
from tests.support.pictures import picture
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.slow]
MODEL = "digits-onnx"


@pytest.fixture(scope="module")
def on_ray(ray_server):
    headers = {"Authorization": f"Bearer {ray_server.keys()['inference']}"}
    url = ray_server.running["inference"]
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        yield client


def cases(x):
    """Arguments of a POST, and the path."""
    row, several, path = x[0], x[:5].astype("<f4"), f"/predictions/{MODEL}"
    options = {"task": "4 or 5", "top_k": 2, "probabilities": True, "threshold": 0.5}
    headers = {"eidetic-task": "4%20or%205", "eidetic-top-k": "2"}
    yield path, {"json": {"data": row.tolist()}}
    yield f"{path}/3.0", {"json": {"data": row.tolist(), **options}}
    yield path, {"json": {"instances": several.tolist(), "threshold": 1.0}}
    yield path, {"content": several.tobytes(), "headers": {"Content-Type": RAW}}
    yield path, {"content": row.tobytes(), "headers": {"Content-Type": RAW, **headers}}
    yield path, {"content": npy(several.astype(">f8")), "headers": {"Content-Type": NPY}}
    yield (
        path,
        {
            "content": gzip.compress(several.tobytes()),
            "headers": {"Content-Type": RAW, "Content-Encoding": "gzip"},
        },
    )
    yield path, {"files": {"data": ("x", npy(row))}, "data": {"task": "0 or 1", "probabilities": "true"}}
    yield path, {"data": {"data": json.dumps({"data": row.tolist()}), "top_k": "1"}}
    yield "/predictions/colours", {"content": picture("blue", 3), "headers": {"Content-Type": PNG}}
    yield "/predictions/digits-torchscript", {"json": {"data": row.tolist()}}
    for sent, *_ in BAD:
        kind = {"Content-Type": sent["kind"]}
        more = {key.replace("_", "-"): value for key, value in sent.items() if key.startswith("eidetic")}
        yield (
            f"/predictions/{sent.get('model', MODEL)}",
            {"content": sent["content"], "headers": {**kind, **more}},
        )


def test_both_engines_give_the_very_same_bytes(http, on_ray, x):
    for path, sent in cases(x):
        one, other = http.post(path, **sent), on_ray.post(path, **sent)
        if one.status_code == 408:  # which says how late it is
            assert (other.status_code, other.json()["error"]["kind"]) == (408, "expired")
            continue
        assert (one.status_code, one.content) == (other.status_code, other.content), (path, sent)
        assert other.headers["content-type"] == JSON


def test_the_same_clients_speak_to_ray_serve_over_http_and_grpc(ray_server, x):
    target, keys = ray_server.running["grpc_inference"], ray_server.home / "keys.json"
    with Client(ray_server.running["inference"], keys) as client:
        expected = client.predict(MODEL, x[:3], top_k=2)
    with GrpcClient(target, keys) as client:
        assert client.predict(MODEL, x[:3], top_k=2) == expected
        with pytest.raises(RequestError, match="has shape") as error:
            client.predict(MODEL, x[:3, :5])
        assert (error.value.status, error.value.kind) == (400, "bad_request")
        with pytest.raises(RequestError, match="no model 'nobody'") as error:
            client.predict("nobody", x[:1])
        assert error.value.status == 404
    with OpenInference(target, keys) as client:
        assert (client.live(), client.ready(), client.model_ready(MODEL)) == (True, True, True)
        assert client.metadata(MODEL)["versions"] == ["3.0"]
        assert client.predict(MODEL, x[:3], top_k=2) == expected
        with pytest.raises(RequestError, match="has shape") as error:
            client.predict(MODEL, x[:3, :5])
        assert (error.value.status, error.value.field) == (400, "x")
    with GrpcClient(target, "wrong") as client, pytest.raises(WrongKeyError):
        client.predict(MODEL, x[:1])


def test_a_stock_client_speaks_to_ray_serve_over_grpc(ray_server, on_ray, x):
    """Which TorchServe's package of the protocol does not let it."""
    key = {"authorization": f"Bearer {ray_server.keys()['inference']}"}
    given = triton.InferInput("x", [3, 64], "FP32")
    given.set_data_from_numpy(x[:3].astype(np.float32))
    with triton.InferenceServerClient(ray_server.running["grpc_inference"]) as client:
        assert client.is_server_live()
        assert client.is_model_ready(MODEL, "3.0", headers=key)
        assert list(client.get_model_metadata(MODEL, headers=key).inputs[0].shape) == [-1, 64]
        wanted = [triton.InferRequestedOutput(name) for name in ("answer", "label")]
        found = client.infer(
            MODEL, [given], request_id="7", parameters={"top_k": 1}, outputs=wanted, headers=key
        )
        answers = [json.loads(each) for each in found.as_numpy("answer")]
        plain = on_ray.post(f"/predictions/{MODEL}", json={"instances": x[:3].tolist(), "top_k": 1})
        assert (found.get_response().id, answers) == ("7", plain.json()["predictions"])
        for model, headers, words in (("nobody", key, "no model"), (MODEL, {}, "no valid token")):
            with pytest.raises(InferenceServerException, match=words):
                client.infer(model, [given], headers=headers)


def test_rays_own_metrics_hold_what_was_counted_under_the_same_names(ray_server, on_ray, x):
    (port,) = ray_server.home.glob("run/*/session_2*/metrics_export_port_*")
    on_ray.post(f"/predictions/{MODEL}", json={"data": x[0].tolist()})

    def series():
        text = httpx.get(f"http://127.0.0.1:{port.read_text().strip()}/metrics", trust_env=False).text
        found = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return {(s.name, s.labels.get("le", ""), s.labels["model"]): s.value
                for s in found if s.labels.get("model") and s.name.startswith("ray_eidetic_")}  # fmt: skip

    until(lambda: series().get(("ray_eidetic_requests_total", "", MODEL), 0) > 0)
    seen = series()
    ours = {line.split("{")[0].split(" ")[0] for line in ray_server.control("/metrics").text.splitlines()}
    told = {f"ray_{name}" for name in ours if name.startswith("eidetic_") and not name.endswith("_created")}
    assert {name for name, *_ in seen} >= told - {"ray_eidetic_ready", "ray_eidetic_frontend_restarts_total"}
    assert seen["ray_eidetic_workers", "", MODEL] == 1
    assert (
        seen["ray_eidetic_handler_seconds_bucket", "+Inf", MODEL]
        == seen["ray_eidetic_handler_seconds_count", "", MODEL]
    )
