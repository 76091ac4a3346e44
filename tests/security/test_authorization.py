"""Nothing is answered without the right key, and the key for predictions changes nothing."""

import grpc
import httpx
import pytest

from eideticnet.serving.torchserve import services
from tests.support.waiting import PATIENCE

INFERENCE = [
    ("GET", "/ping"),
    ("POST", "/predictions/net"),
    ("POST", "/predictions/net/1.0"),
    ("POST", "/invocations"),
    ("POST", "/net/predict"),
    ("POST", "/explanations/net"),
    ("POST", "/wfpredict/any"),
    ("GET", "/v1/models/net"),
    ("POST", "/v1/models/net:predict"),
    ("GET", "/v2"),
    ("GET", "/v2/models/net"),
    ("POST", "/v2/models/net/infer"),
]
MANAGEMENT = [
    ("GET", "/models"),
    ("GET", "/models/net"),
    ("POST", "/models?url=net.mar"),
    ("PUT", "/models/net?min_worker=0"),
    ("PUT", "/models/net/1.0/set-default"),
    ("DELETE", "/models/net"),
    ("GET", "/workflows"),
    ("POST", "/workflows?url=net.war"),
    ("DELETE", "/workflows/any"),
    ("GET", "/token?type=inference"),
    ("GET", "/token?type=management"),
]


def wrong(server, use):
    """Headers that must not do: none, another key, half a key, the key of the other API, another scheme."""
    keys = server.keys()
    right, other = keys[use], keys[{"inference": "management", "management": "inference"}[use]]
    tokens = ["wrong", right[:-1], right + "x", right.swapcase(), other, "null"]
    return [
        {},
        {"Authorization": right},
        {"Authorization": "Basic " + right},
        {"Authorization": "Bearer"},
    ] + [{"Authorization": f"Bearer {token}"} for token in tokens]


@pytest.mark.parametrize(
    ("use", "calls"), [("inference", INFERENCE + MANAGEMENT), ("management", MANAGEMENT + INFERENCE)]
)
def test_every_call_over_http_refuses_every_wrong_key(server, use, calls):
    with httpx.Client(base_url=server.running[use], trust_env=False, timeout=PATIENCE) as client:
        for method, path in calls:
            for headers in wrong(server, use):
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == 400, (method, path)
                assert answer.json()["type"] == "InvalidKeyException", (method, path)
    assert server.predict({"data": [0] * 6}).status_code == 200


def test_the_key_for_predictions_is_no_key_for_management_on_either_port(server):
    headers = {"Authorization": f"Bearer {server.keys()['inference']}"}
    for base in (server.running["inference"], server.running["management"]):
        for method, path in MANAGEMENT:
            answer = httpx.request(method, base + path, headers=headers, trust_env=False, timeout=PATIENCE)
            assert answer.status_code >= 400, (base, path)
    assert server.default() == "1.0"


@pytest.mark.parametrize(
    ("use", "service"), [("inference", services.INFERENCE), ("management", services.MANAGEMENT)]
)
def test_every_method_over_grpc_refuses_every_wrong_key(server, use, service):
    described = services._pool().FindServiceByName(service)
    with services.open_channel(server.running[f"grpc_{use}"], None) as channel:
        for method in described.methods:
            call = services.Rpc(channel, service, method.name)
            for headers in wrong(server, use):
                metadata = [(name.lower(), value) for name, value in headers.items()]
                with pytest.raises(grpc.RpcError) as error:
                    answer = call(metadata, PATIENCE)
                    if hasattr(answer, "__next__"):  # a stream refuses with its first item
                        next(answer)
                assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED, method.name
    assert len(described.methods) >= 3


def test_what_needs_no_key_is_a_description_of_torchserve_alone(server, archives):
    for use in ("inference", "management"):
        for method, path in (("OPTIONS", "/"), ("GET", "/api-description")):
            text = httpx.request(method, server.running[use] + path, timeout=PATIENCE, trust_env=False).text
            assert "TorchServe" in text
            assert not [word for word in ("picture", "task 0", *server.keys().values()) if word in text]
