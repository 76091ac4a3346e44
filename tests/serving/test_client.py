"""The HTTP clients against a real TorchServe: arrays, options, deadlines, retries, and keys that change."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from eidetic_runtime.options import from_text
from eideticnet.client import Answer, AsyncClient, Client, GrpcClient
from eideticnet.client.options import as_text, timed
from eideticnet.client.tracing import trace_headers
from eideticnet.serving.errors import DeadlineError, NoAnswerError, RequestError, ServingError, WrongKeyError
from eideticnet.serving.torchserve.process import TorchServe
from tests.support.bare_torchserve import asleep, wait_until_ready
from tests.support.example_counts import examples
from tests.support.own_ports import own_ports
from tests.support.tcp_relay import Relay
from tests.support.waiting import PATIENCE, until

MODEL = "digits-onnx"
RAW = "application/octet-stream"


@pytest.fixture
def relay(server):
    with Relay(server.ports.inference) as relay:
        yield relay


def test_a_batch_of_arrays_is_answered_row_by_row_as_json_would_be(client, x):
    batch = client.predict(MODEL, x[:5])
    for row, answer in zip(x, batch, strict=False):
        told = client.predict(MODEL, {"data": row.tolist()})
        assert isinstance(answer, Answer)
        assert (answer.task, answer.label, answer.unknown) == (told["task"], told["label"], False)
        assert answer.label_probability == pytest.approx(told["label_probability"], abs=1e-6)
        assert client.predict(MODEL, row, content_type=RAW) == client.predict(MODEL, row)
    assert len(batch) == len(client.predict(MODEL, x[:5], content_type=RAW)) == 5


def test_whole_numbers_doubles_and_strided_arrays_are_sent_as_what_they_mean(client, x):
    whole = x[:3].round()
    expected = client.predict(MODEL, whole)
    for array in (
        whole.astype(np.int32),
        whole.astype(np.float64),
        np.asfortranarray(whole),
        whole[::-1][::-1],
    ):
        assert client.predict(MODEL, array) == expected
    with pytest.raises(ServingError, match="an array of bool"):
        client.predict(MODEL, whole > 0)


def test_files_are_sent_as_what_they_are(client, x, tmp_path):
    np.save(tmp_path / "x.npy", x[:3])
    (tmp_path / "x.f32").write_bytes(x[:3].tobytes())
    (tmp_path / "x.json").write_text(json.dumps({"instances": x[:3].tolist()}))
    expected = client.predict(MODEL, x[:3])
    for name in ("x.npy", "x.f32", "x.json"):
        assert client.predict(MODEL, tmp_path / name) == expected
    assert client.predict(MODEL, (tmp_path / "x.npy").read_bytes()) == expected
    with pytest.raises(ServingError, match="can't be read"):
        client.predict(MODEL, tmp_path / "none.npy")


def test_options_reach_the_network(client, x):
    (routed,) = client.predict(MODEL, x[0], top_k=2, probabilities=True)
    assert routed.top[0].label == routed.label
    assert len(routed.top) == 2
    assert sum(routed.task_probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert set(routed.label_probabilities) == {c.label for c in routed.top}
    (pinned,) = client.predict(MODEL, x[0], task="4 or 5", version="3.0", request_id="a-request")
    assert (pinned.task, pinned.pinned, pinned.top) == ("4 or 5", True, ())
    (unsure,) = client.predict(MODEL, np.full(64, 8.0), threshold=1.0)
    assert (unsure.task, unsure.label, unsure.unknown) == (None, None, True)


@examples(50, 200)
@given(st.text(), st.floats(0, 1), st.integers(1, 10**9), st.booleans(), st.floats(0, 1e6))
def test_options_mean_the_same_to_the_handler_as_to_who_sent_them(task, threshold, top_k, told, deadline):
    given = {"task": task, "threshold": threshold, "top_k": top_k, "probabilities": told}
    before = time.time()
    values = timed({**given, "deadline": deadline}, 1.0).values
    assert {name: values[name] for name in given} == given
    assert {name: from_text(name, as_text(value)) for name, value in values.items()} == values
    assert int((before + deadline) * 1000) <= values["deadline_ms"] <= (time.time() + deadline) * 1000


@examples(15, 40)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_task_of_any_name_arrives_as_it_was_sent(client, name):
    with pytest.raises(RequestError) as error:
        client.predict(MODEL, {"data": [0] * 64}, task=name)
    assert (error.value.status, error.value.kind, error.value.field) == (400, "bad_request", "task")
    assert error.value.message.startswith(f"no task {name!r}")


def test_what_is_wrong_is_refused_by_name_and_never_sent_again(relay, server, x):
    key = server.keys()["inference"]
    with Client(f"http://127.0.0.1:{relay.port}", key, retries=5) as client:
        for sent, status, field in (
            (x[0, :-1], 400, "body"),
            ({"instances": [[0] * 64] * 6}, 413, "instances"),
            (b"\xff\xd8\xff a JPEG", 415, "content-type"),
            ({"data": [0] * 64, "deadline_ms": 1}, 408, "deadline_ms"),
        ):
            before = relay.requests
            with pytest.raises(RequestError) as error:
                client.predict(MODEL, sent)
            assert (error.value.status, error.value.field) == (status, field)
            assert error.value.message
            assert relay.requests == before + 1
        with pytest.raises(RequestError, match="Model not found") as error:
            client.predict("nothing", x[0])
        assert (error.value.status, error.value.kind) == (404, "ModelNotFoundException")
    assert relay.requests == 5


def test_a_connection_that_breaks_is_tried_again_as_often_as_allowed(relay, server, x):
    url, key = f"http://127.0.0.1:{relay.port}", server.keys()["inference"]
    for retries, answered in ((2, True), (1, False)):
        relay.requests, relay.cut = 0, 2
        with Client(url, key, retries=retries) as client:
            if answered:
                assert client.predict(MODEL, x[0])
            else:
                with pytest.raises(NoAnswerError):
                    client.predict(MODEL, x[0])
        assert relay.requests == retries + 1


def test_a_refused_connection_is_an_error_at_once_or_after_the_retries_that_fit(x):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for retries, deadline in ((0, PATIENCE), (100, 1)):
        started = time.monotonic()
        with Client(url, "key", retries=retries) as client:
            with pytest.raises((NoAnswerError, DeadlineError) if retries else NoAnswerError):
                client.predict(MODEL, x[0], deadline=deadline)
        passed = time.monotonic() - started
        assert passed > 0.3 if retries else passed < deadline


@pytest.mark.parametrize("retries", [0, 5])
def test_a_deadline_ends_the_waiting_in_time(server, client, x, retries):
    url, key = server.ports.inference_url, server.keys()["inference"]
    with asleep(server), Client(url, key, retries=retries) as other:
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=r"within 0\.3 s"):
            other.predict(MODEL, x[0], deadline=0.3)
        assert time.monotonic() - started >= 0.3
    assert client.predict(MODEL, x[0], deadline=PATIENCE)
    for deadline in (0, -1.5):
        with pytest.raises(DeadlineError, match=f"{deadline} s are over before anything is sent"):
            client.predict(MODEL, x[0], deadline=deadline)


def drip(listener, head):
    """Answer one request: ``head`` at once, then a byte now and then, as long as the client is there."""
    with contextlib.suppress(OSError), listener.accept()[0] as connection:
        connection.recv(1 << 16)
        connection.sendall(head)
        while True:
            time.sleep(0.1)
            connection.sendall(b" ")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n"])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_deadline_ends_the_waiting_for_an_answer_that_drips(x, head, blocking):
    async def ask(url):
        async with AsyncClient(url, "key") as client:
            await client.predict(MODEL, x[0], deadline=0.5)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        dripping = threading.Thread(target=drip, args=(listener, head))
        dripping.start()
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=r"within 0\.5 s"):
            if blocking:
                with Client(url, "key") as client:
                    client.predict(MODEL, x[0], deadline=0.5)
            else:
                asyncio.run(ask(url))
        assert time.monotonic() - started >= 0.5
        dripping.join()  # who drips ends when nobody listens any more


def test_a_deadline_ends_the_sending_to_a_server_that_reads_slowly(x):
    """64 MB, of which as much is read as fits into the system's own buffers, and then a byte now and then."""

    def sip(listener):
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            while not over.wait(0.02):
                connection.recv(1)

    over = threading.Event()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sipping = threading.Thread(target=sip, args=(listener,))
        sipping.start()
        started = time.monotonic()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "key") as client:
            with pytest.raises(DeadlineError):
                client.predict(MODEL, bytes(64 << 20), deadline=0.5)
        assert time.monotonic() - started >= 0.5
        over.set()
        sipping.join()


def test_sixteen_coroutines_share_a_client_and_each_gets_its_own_answers(server, client, x):
    alone = [client.predict(MODEL, row)[0].label for row in x]

    async def ask(client, number):
        rows = [(number * 7 + i) % len(x) for i in range(12)]
        return [((await client.predict(MODEL, x[i]))[0].label, alone[i]) for i in rows]

    async def run():
        url, key = server.ports.inference_url, server.keys()["inference"]
        async with AsyncClient(url, key) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(16)))

    pairs = [pair for answers in asyncio.run(run()) for pair in answers]
    assert len(pairs) == 192
    assert all(got == expected for got, expected in pairs)


def test_a_full_queue_is_tried_again_until_there_is_room(server, x):
    key = server.keys()["inference"]

    async def run(retries):
        with Relay(server.ports.inference) as relay:
            url = f"http://127.0.0.1:{relay.port}"
            async with AsyncClient(url, key, retries=retries, timeout=PATIENCE) as client:
                with asleep(server):
                    asked = [asyncio.ensure_future(client.predict(MODEL, x[0])) for _ in range(200)]
                    while not (relay.requests > 200 if retries else any(a.done() for a in asked)):
                        await asyncio.sleep(0.05)
                return await asyncio.gather(*asked, return_exceptions=True)

    refused = [a for a in asyncio.run(run(0)) if isinstance(a, Exception)]
    assert refused
    assert {(e.status, e.kind) for e in refused} == {(503, "ServiceUnavailableException")}
    assert all(isinstance(a, list) for a in asyncio.run(run(1000)))


def test_keys_are_never_shown_and_a_wrong_one_is_named(server, x, tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"inference": "no-such-key", "management": "other"}))
    for key in ("no-such-key", keys):
        with Client(server.ports.inference_url, key, retries=3) as client:
            assert "no-such-key" not in repr(client)
            with pytest.raises(WrongKeyError) as error:
                client.predict(MODEL, x[0])
            assert error.value.status == 401
            assert "no-such-key" not in str(error.value)
    keys.write_text("{}")
    with pytest.raises(ServingError, match="no inference key"):
        Client(server.ports.inference_url, keys)
    with pytest.raises(ServingError, match=r"nokeys\.json: no inference key: there is no such file"):
        Client(server.ports.inference_url, tmp_path / "nokeys.json")


def test_an_option_that_there_is_not_is_an_error_of_the_caller(client, x):
    with pytest.raises(TypeError, match="no option 'treshold'; there are task, threshold"):
        client.predict(MODEL, x[0], treshold=0.9)


def test_a_file_that_does_not_tell_what_it_holds_is_not_sent_as_numbers(client, x, tmp_path):
    for name in ("x.npz", "x.csv", "x.safetensors"):
        (tmp_path / name).write_bytes(bytes(256))
        with pytest.raises(ServingError, match=f"{name}.*says nothing of what it holds"):
            client.predict(MODEL, tmp_path / name)
        assert client.predict(MODEL, tmp_path / name, content_type="application/octet-stream")


def test_the_name_of_a_keys_file_is_no_token():
    with pytest.raises(ServingError, match="give a file that holds one as a Path"):
        Client("http://127.0.0.1:9", "server_home/keys.json")


def test_threads_that_share_a_client_all_notice_that_the_key_has_changed(server, x, tmp_path):
    keys, together = tmp_path / "keys.json", threading.Barrier(8)

    def ask(client):
        together.wait()
        return client.predict(MODEL, x[0])

    for make, target in (
        (Client, server.ports.inference_url),
        (GrpcClient, f"127.0.0.1:{server.ports.grpc_inference}"),
    ):
        keys.write_text(json.dumps({"inference": "the-old-one", "management": "other"}))
        with make(target, keys) as client, ThreadPoolExecutor(8) as pool:
            keys.write_text(json.dumps(server.keys()))
            asked = [pool.submit(ask, client) for _ in range(8)]
            assert [a.result()[0].model_version for a in asked] == ["3.0"] * 8


def test_a_server_that_is_killed_under_a_request_and_comes_back_answers_it(archive, x, tmp_path):
    ports, keys = own_ports(), tmp_path / "keys.json"
    answers = []

    def ask(client):
        answers.append(client.predict(MODEL, x[0], deadline=PATIENCE))

    with TorchServe([archive], ports) as first, Relay(ports.inference) as relay:
        wait_until_ready(first, [archive]).close()
        old = first.keys()
        keys.write_text(json.dumps(old))
        with Client(f"http://127.0.0.1:{relay.port}", keys, retries=1000) as client:
            client.predict(MODEL, x[0])
            with asleep(first):
                asking = threading.Thread(target=ask, args=(client,))
                asking.start()
                until(lambda: relay.requests == 2)
                for process in psutil.Process(first.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.Process(first.pid).kill()
            first.stop()
            with TorchServe([archive], ports) as second:
                wait_until_ready(second, [archive]).close()
                assert second.keys() != old
                keys.write_text(json.dumps(second.keys()))
                asking.join()
    assert [a.model_version for a in answers[0]] == ["3.0"]


def test_the_trace_and_the_requests_id_are_passed_on():
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("asking") as span:
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        headers = trace_headers("mine")
    assert headers["traceparent"].split("-")[1] == trace_id
    assert headers["x-request-id"] == "mine"
    assert trace_headers() == {}
