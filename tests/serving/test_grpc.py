"""gRPC answers as HTTP does: predictions, errors, deadlines, management and the open protocol."""

import asyncio
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.client import AsyncGrpcClient, GrpcClient, OpenInference
from eideticnet.serving.errors import DeadlineError, NoAnswerError, RequestError, WrongKeyError
from eideticnet.serving.torchserve import services
from tests.support.bare_torchserve import asleep
from tests.support.example_counts import examples
from tests.support.grpc_management import GrpcManagement
from tests.support.tcp_relay import Relay
from tests.support.torchserve_grpc import compiled
from tests.support.waiting import PATIENCE

MODEL, SERVED = "digits-onnx", ["colours", "digits-onnx", "digits-torchscript", "net"]
RAW = "application/octet-stream"


@pytest.fixture(scope="module")
def target(server):
    return f"127.0.0.1:{server.ports.grpc_inference}"


@pytest.fixture(scope="module")
def grpc(server, target):
    with GrpcClient(target, server.keys()["inference"]) as grpc:
        yield grpc


def test_every_answer_is_the_one_that_http_gives(grpc, client, x):
    requests = [
        (x[:5], {}),
        (x[0], {"content_type": RAW, "top_k": 2, "probabilities": True}),
        (x[:2], {"task": "4 or 5", "version": "3.0"}),
        (x[:1], {"threshold": 1.0, "deadline": PATIENCE}),
        ({"instances": x[:3].tolist(), "top_k": 1}, {}),
    ]
    for sent, options in requests:
        assert grpc.predict(MODEL, sent, **options) == client.predict(MODEL, sent, **options)


def test_every_error_is_the_one_that_http_gives(grpc, client, x):
    requests = [
        (MODEL, x[0, :-1], {}),
        (MODEL, {"instances": np.zeros((6, 64))}, {}),
        (MODEL, b"nothing of ours", {"content_type": "text/plain"}),
        (MODEL, {"data": [0] * 64, "deadline_ms": 10**15, "threshold": 2}, {}),
        ("nothing", x[0], {}),
        (MODEL, x[0], {"version": "9.0"}),
    ]
    for model, sent, options in requests:
        errors = []
        for each in (grpc, client):
            with pytest.raises(RequestError) as error:
                each.predict(model, sent, **options)
            found = error.value
            errors.append((type(found), found.status, found.kind, found.field, found.message))
        assert errors[0] == errors[1]
    with pytest.raises(DeadlineError, match="passed"):
        grpc.predict(MODEL, {"data": [0] * 64, "deadline_ms": 1})


@examples(10, 30)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_task_of_any_name_arrives_as_it_was_sent(grpc, name):
    with pytest.raises(RequestError) as error:
        grpc.predict(MODEL, {"data": [0] * 64}, task=name)
    assert error.value.message.startswith(f"no task {name!r}")


def test_a_deadline_ends_the_waiting_in_time(server, grpc, x):
    with asleep(server):
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=r"within 0\.3 s"):
            grpc.predict(MODEL, x[0], deadline=0.3)
        assert time.monotonic() - started >= 0.3
    assert grpc.predict(MODEL, x[0], deadline=PATIENCE)


def test_a_server_that_can_not_be_reached_is_asked_again(server, x):
    key = server.keys()["inference"]
    with Relay(server.ports.grpc_inference) as relay:
        relay.cut = 3
        with GrpcClient(f"127.0.0.1:{relay.port}", key) as grpc, pytest.raises(NoAnswerError):
            grpc.predict(MODEL, x[0])
        relay.cut = 3
        with GrpcClient(f"127.0.0.1:{relay.port}", key, retries=1000) as grpc:
            assert grpc.predict(MODEL, x[0], deadline=PATIENCE)


def test_a_full_queue_is_tried_again_until_there_is_room(server, target, x):
    async def run(retries):
        key = server.keys()["inference"]
        async with AsyncGrpcClient(target, key, retries=retries, timeout=PATIENCE) as grpc:
            with asleep(server):
                asked = [asyncio.ensure_future(grpc.predict(MODEL, x[0])) for _ in range(200)]
                done, _ = await asyncio.wait(
                    asked, timeout=1 if retries else PATIENCE, return_when=asyncio.FIRST_COMPLETED
                )
                assert bool(done) == (not retries)
            return await asyncio.gather(*asked, return_exceptions=True)

    refused = [a for a in asyncio.run(run(0)) if isinstance(a, Exception)]
    assert refused
    assert {(type(e), e.status, e.kind) for e in refused} == {
        (RequestError, 503, "ServiceUnavailableException")
    }
    assert all(isinstance(a, list) for a in asyncio.run(run(1000)))


def test_sixteen_coroutines_share_a_client_and_each_gets_its_own_answers(server, target, client, x):
    alone = [client.predict(MODEL, row)[0].label for row in x]

    async def ask(grpc, number):
        rows = [(number * 7 + i) % len(x) for i in range(8)]
        return [((await grpc.predict(MODEL, x[i]))[0].label, alone[i]) for i in rows]

    async def run():
        async with AsyncGrpcClient(target, server.keys()["inference"]) as grpc:
            with pytest.raises(RequestError, match="no task"):
                await grpc.predict(MODEL, x[0], task="no such task")
            return await asyncio.gather(*(ask(grpc, number) for number in range(16)))

    pairs = [pair for answers in asyncio.run(run()) for pair in answers]
    assert len(pairs) == 128
    assert all(got == expected for got, expected in pairs)


def test_a_wrong_key_is_named_and_never_shown(target, x, server, tmp_path):
    with GrpcClient(target, "no-such-key") as grpc:
        assert "no-such-key" not in repr(grpc)
        with pytest.raises(WrongKeyError) as error:
            grpc.predict(MODEL, x[0])
        assert "no-such-key" not in str(error.value)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"inference": "old"}))
    with GrpcClient(target, keys) as grpc:
        keys.write_text(json.dumps(server.keys()))
        assert grpc.predict(MODEL, x[0])


def test_the_descriptors_are_those_of_torchserves_own_proto_files():
    assert services.DESCRIPTORS.read_bytes() == compiled()


def test_the_management_service_lists_describes_and_changes_what_is_served(server):
    target = f"127.0.0.1:{server.ports.grpc_management}"
    with GrpcManagement(target, server.keys()["management"]) as management:
        assert [m["modelName"] for m in management.list_models()] == SERVED
        assert [m["modelVersion"] for m in management.describe(MODEL)] == ["3.0"]
        assert "3.0" in management.set_default(MODEL, "3.0")
        with pytest.raises(RequestError) as error:
            management.set_default(MODEL, "9.0")
        assert error.value.status == 404
        assert management.scale(MODEL, "3.0", 2)
        (described,) = management.describe(MODEL, "3.0")
        assert len(described["workers"]) == 2
        assert management.scale(MODEL, "3.0", 1)
    with GrpcManagement(target, server.keys()["inference"]) as other, pytest.raises(WrongKeyError):
        other.list_models()


def test_the_open_protocol_gives_the_same_answers_and_errors(open_server, client, x):
    target = f"127.0.0.1:{open_server.ports.grpc_inference}"
    with OpenInference(target, open_server.keys()["inference"]) as grpc:
        assert grpc.live()
        assert grpc.ready()
        assert grpc.model_ready(MODEL)
        assert grpc.metadata(MODEL)["versions"] == ["3.0"]
        for options in ({}, {"task": "4 or 5", "top_k": 2, "probabilities": True}, {"threshold": 1.0}):
            assert grpc.predict(MODEL, x[:5], **options) == client.predict(MODEL, x[:5], **options)
        wrong = [np.where(np.arange(64) == 3, value, x[:2]) for value in (np.nan, np.inf, -np.inf)]
        for sent, options, field in (
            (x[:2, :-1], {}, "x"),
            (x[:2], {"task": "no such"}, "task"),
            *((each, {}, "x[0][3]") for each in wrong),
            (x[:2].tolist(), {"threshold": float("nan")}, "threshold"),
        ):
            with pytest.raises(RequestError) as error:
                grpc.predict(MODEL, sent, request_id="7", **options)
            assert (error.value.status, error.value.kind, error.value.field) == (400, "bad_request", field)
        with pytest.raises(DeadlineError):
            grpc.predict(MODEL, x[:2], deadline=-1.0)
        assert grpc.predict(MODEL, x[:2], deadline=PATIENCE)
    with Relay(open_server.ports.grpc_inference) as relay:
        relay.cut, key = 2, open_server.keys()["inference"]
        with OpenInference(f"127.0.0.1:{relay.port}", key, retries=1000) as grpc:
            assert grpc.predict(MODEL, x[:2].tolist(), deadline=PATIENCE) == client.predict(MODEL, x[:2])
