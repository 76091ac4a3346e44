"""What is given to a client: lists, tensors, several files, and more than one request may hold."""

import asyncio
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.client import Answer, AsyncClient, AsyncGrpcClient, Client, GrpcClient
from eideticnet.client.options import Options
from eideticnet.client.payload import numbers
from eideticnet.client.pieces import asking, run
from eideticnet.serving.deploys.probes import Prober
from eideticnet.serving.errors import MOST_BYTES, RequestError, ServingError, too_large
from eideticnet.serving.questions import Question
from eideticnet.serving.torchserve.management import TorchServeManagement
from tests.support import pictures
from tests.support.example_counts import examples
from tests.support.tcp_relay import Relay
from tests.support.waiting import PATIENCE

MODEL = "digits-onnx"
SAME = {
    "an array": lambda x: x,
    "a list": lambda x: x.tolist(),
    "a tuple of lists": lambda x: tuple(x.tolist()),
    "a list of arrays": list,
    "a list of whole numbers": lambda x: x.astype(int).tolist(),
    "a tensor": torch.from_numpy,
    "a tensor that learns": lambda x: torch.from_numpy(x).requires_grad_(),
    "a tensor of half the bits": lambda x: torch.from_numpy(x).bfloat16(),
    "a tensor of whole numbers": lambda x: torch.from_numpy(x).int(),
    "a list of tensors": lambda x: list(torch.from_numpy(x).requires_grad_()),
}


def labels(answers):
    return [(answer.task, answer.label) for answer in answers]


@pytest.fixture(scope="module")
def alone(client, x):
    return labels(client.predict(MODEL, row)[0] for row in x)


@pytest.mark.parametrize("kind", SAME)
def test_lists_and_tensors_are_answered_row_by_row_however_many_they_are(client, x, alone, kind):
    assert labels(client.predict(MODEL, SAME[kind](x))) == alone
    assert labels(client.predict(MODEL, SAME[kind](x)[0])) == alone[:1]


def test_all_four_clients_split_what_is_more_than_one_request_may_hold(server, x, alone):
    url, target, key = server.ports.inference_url, f"127.0.0.1:{server.ports.grpc_inference}", server.keys()
    with Client(url, key["inference"]) as http, GrpcClient(target, key["inference"]) as grpc:
        for options in ({}, {"version": "3.0"}, {"content_type": "application/octet-stream"}):
            assert labels(http.predict(MODEL, x, **options)) == alone
            assert labels(grpc.predict(MODEL, x, **options)) == alone

    async def both():
        async with (
            AsyncClient(url, key["inference"]) as http,
            AsyncGrpcClient(target, key["inference"]) as grpc,
        ):
            return await http.predict(MODEL, x), await grpc.predict(MODEL, x.tolist())

    assert list(map(labels, asyncio.run(both()))) == [alone, alone]


def test_a_client_asks_once_how_many_a_request_may_hold(server, x):
    with Relay(server.ports.inference) as relay:
        with Client(f"http://127.0.0.1:{relay.port}", server.keys()["inference"]) as client:
            for requests in (1 + 5, 5, 5):
                relay.requests = 0
                client.predict(MODEL, x)
                assert relay.requests == requests
            relay.requests = 0
            assert len(client.predict(MODEL, x[0])) == 1  # 64 numbers, which are no 64 instances
            with pytest.raises(RequestError, match="holds 6 instances"):
                client.predict(MODEL, {"instances": x[:6].tolist()})
            assert relay.requests == 2


@pytest.mark.parametrize("kind", [Client, GrpcClient])
def test_a_file_of_more_than_one_request_may_hold_is_split_too(server, x, alone, tmp_path, kind):
    where = {Client: server.ports.inference_url, GrpcClient: f"127.0.0.1:{server.ports.grpc_inference}"}
    (tmp_path / "x.f32").write_bytes(x.tobytes())
    np.save(tmp_path / "x.npy", x.astype(">f8"))
    with kind(where[kind], server.keys()["inference"]) as client:
        for name in ("x.f32", "x.npy"):
            assert labels(client.predict(MODEL, tmp_path / name)) == alone
            assert labels(client.predict(MODEL, (tmp_path / name).read_bytes())) == alone


def test_a_file_of_more_bytes_than_a_request_may_hold_is_split_before_it_is_sent(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((30_000, 64), np.float32))
    assert (tmp_path / "x.npy").stat().st_size > MOST_BYTES
    sent = []

    async def send(call):
        if len(call.payload.content) > MOST_BYTES:
            raise RequestError(413, too_large(len(call.payload.content)))
        sent.append(np.load(io.BytesIO(call.payload.content)))
        return [answer("1")] * len(sent[-1])

    assert len(run(asking("m", tmp_path / "x.npy", {}, PATIENCE, {}, send))) == 30_000
    assert len(sent) == 2


@pytest.mark.parametrize("kind", [Client, GrpcClient])
@pytest.mark.parametrize("content_type", ["", "application/octet-stream"])
@pytest.mark.parametrize("row", [0, 5, 7, 10])
def test_a_row_that_is_wrong_is_named_by_its_place_in_the_whole(server, x, tmp_path, kind, content_type, row):
    where = {Client: server.ports.inference_url, GrpcClient: f"127.0.0.1:{server.ports.grpc_inference}"}
    bad = np.resize(x, (11, 64))  # goes as 5, 5 and 1
    bad[row, 3] = np.inf
    (tmp_path / "x.f32").write_bytes(bad.tobytes())
    with kind(where[kind], server.keys()["inference"]) as client:
        for whole in (bad, tmp_path / "x.f32"):
            with pytest.raises(RequestError) as error:
                client.predict(MODEL, whole, content_type=content_type)
            assert (error.value.status, error.value.field) == (400, f"body[{row}][3]")
            assert f"body[{row}][3]: is inf" in str(error.value)


@pytest.mark.parametrize("one", [5, np.float32(1)])
def test_a_single_number_is_refused_by_the_server_by_its_shape(server, client, one):
    target = f"127.0.0.1:{server.ports.grpc_inference}"
    with GrpcClient(target, server.keys()["inference"]) as grpc:
        for each in (client, grpc):
            with pytest.raises(RequestError, match="body: has shape"):
                each.predict(MODEL, one)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: huge(path)]
)
def test_what_is_no_file_of_a_size_is_refused_at_once(nobody, tmp_path, make):
    make(tmp_path / "x.npy")
    for client in nobody:
        for file in (tmp_path / "x.npy", [tmp_path / "x.npy"] * 2):
            with pytest.raises(
                ServingError, match=r"x\.npy can't be read: it (is a|has \d+ bytes).*; expected"
            ):
                client.predict(MODEL, file)


@pytest.mark.parametrize(
    ("name", "words"), [("x.f32", "raw numbers"), ("x.json", "a JSON object"), ("x.png", "an image")]
)
def test_an_empty_file_is_told_what_it_should_hold(nobody, tmp_path, name, words):
    (tmp_path / name).touch()
    for client in nobody:
        with pytest.raises(ServingError, match=f"{name} is empty; expected {words}"):
            client.predict(MODEL, tmp_path / name)


def huge(path):
    with path.open("wb") as file:
        file.truncate(50 << 30)


def test_a_closed_client_says_so():
    for made in (Client, GrpcClient):
        client = made("http://127.0.0.1:1", "key", retries=3)
        client.close()
        with pytest.raises(ServingError, match="the client is closed"):
            client.predict(MODEL, [1.0])

    async def both():
        for made in (AsyncClient, AsyncGrpcClient):
            client = made("http://127.0.0.1:1", "key", retries=3)
            await client.close()
            with pytest.raises(ServingError, match="the client is closed"):
                await client.predict(MODEL, [1.0])

    asyncio.run(both())


def test_arrays_in_a_json_request_are_written_as_lists(client, x, alone):
    for array in (x[0], torch.from_numpy(x[0])):
        answer = client.predict(MODEL, {"data": array, "top_k": np.int64(1)})
        assert (answer["task"], answer["label"]) == alone[0]


def test_several_pictures_are_asked_one_after_the_other(client, tmp_path):
    red, blue = pictures.picture("red", 1), pictures.picture("blue", 2, kind="JPEG")
    (tmp_path / "red.png").write_bytes(red)
    alone = [client.predict("colours", picture)[0] for picture in (red, blue)]
    assert labels(
        client.predict("colours", [tmp_path / "red.png", bytearray(blue), memoryview(red)])
    ) == labels([*alone, alone[0]])


def answer(version):
    return Answer(
        task="a",
        label="b",
        unknown=False,
        pinned=False,
        task_probability=1.0,
        label_probability=1.0,
        model_version=version,
    )


@given(
    rows=st.integers(1, 40),
    most=st.integers(1, 9),
    deploys=st.lists(st.integers(0, 12), max_size=2),
    pinned=st.booleans(),
)
def test_all_answers_are_of_one_version_whatever_is_deployed_meanwhile(rows, most, deploys, pinned):
    """A server that serves one version at a time, and takes another after as many requests as drawn."""
    served, sent, changes = [1], [], list(deploys)

    async def send(call):
        sent.append(call)
        if changes and len(sent) > changes[0]:
            served[0] += 1
            del changes[0]
        if call.version not in ("", str(served[0])):
            raise RequestError(404, {"message": f"no version {call.version}"})
        count = int(call.payload.content.split(b"(", 1)[1].split(b",")[0])
        if count > most:
            message = f"holds {count} instances; expected at most {most}"
            raise RequestError(413, {"error": {"kind": "too_large", "field": "body", "message": message}})
        return [answer(str(served[0]))] * count

    options = {"version": "1"} if pinned else {}
    try:
        found = run(asking("m", np.zeros((rows, 3)), options, 10.0, {}, send))
    except RequestError as error:
        assert pinned
        assert error.status == 404
    else:
        assert len(found) == rows
        assert len({a.model_version for a in found}) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[1.0, 2.0], [3.0]], "a list of this kind can't be sent: .*inhomogeneous"),
        ([True, False], "an array of bool"),
        (["1", "2"], "an array of <U1"),
        ("x.npy", "'x.npy' is text; .* give a pathlib.Path"),
        ([None], "an array of object"),
        ({1, 2}, "of type set can't be sent; expected an array"),
        (None, "of type NoneType can't be sent"),
        ((i for i in "a"), "of type generator can't be sent"),
        ([2**63], "an array of uint64"),
        ([2**64], "an array of object"),
        (np.array([2**63], np.uint64), "an array of uint64"),
        ([1j], "an array of complex128"),
        (torch.tensor([1j]), "an array of complex64"),
        ({"data": [float("nan")]}, "can't be sent as JSON"),
        ({"data": {1, 2}}, "of type set"),
    ],
)
def test_what_can_not_be_sent_is_said_in_one_line_and_never_sent(server, given, words):
    with Relay(server.ports.inference) as relay:
        with Client(f"http://127.0.0.1:{relay.port}", "key") as client:
            with pytest.raises(ServingError, match=words) as error:
                client.predict(MODEL, given)
        assert "\n" not in str(error.value)
        assert " at 0x" not in str(error.value)
        assert relay.requests == 0


@pytest.mark.parametrize("size", [6_553_501, 40_000_000])
def test_a_request_of_too_many_bytes_is_named_over_http_and_grpc(server, client, size):
    with GrpcClient(
        f"127.0.0.1:{server.ports.grpc_inference}", server.keys()["inference"], retries=3
    ) as grpc:
        for each in (client, grpc):
            with pytest.raises(RequestError, match=r"body: has .* bytes; expected 6553500 at most") as error:
                each.predict(MODEL, bytes(size))
            assert (error.value.status, error.value.kind) == (413, "too_large")


def test_numbers_too_large_for_float32_are_refused_by_the_server_without_a_warning(client):
    with pytest.raises(RequestError, match=r"body\[3\]: is inf; expected a finite number"):
        client.predict(MODEL, [0.0] * 3 + [1e300] + [0.0] * 60)
    assert numbers(5).shape == ()


@pytest.mark.parametrize(
    "names",
    [
        *({"version": name} for name in ("../x", "3.0/x", "..", ".", "3.0?a", "%33.0", "3.0%2F", "\0")),
        *({"model": name} for name in (f"{MODEL}/3.0", "../predictions", "", "a%3Fb", "a?b", "\ud800", "ü")),
    ],
)  # fmt: skip
def test_a_name_that_is_none_never_reaches_another_model_or_version(server, client, x, names):
    with GrpcClient(f"127.0.0.1:{server.ports.grpc_inference}", server.keys()["inference"]) as grpc:
        for each in (client, grpc):
            with pytest.raises(ServingError) as error:
                each.predict(**{"model": MODEL, "x": x[0], **names})
            assert getattr(error.value, "status", 404) == 404
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"deadline": float("inf")}, {"deadline": float("nan")}, {"deadline": -float("inf")},
        {"deadline": 1e300}, {"deadline": 10**400}, {"deadline": "2"}, {"deadline": True},
        {"request_id": "ü"}, {"request_id": "a\nb"}, {"request_id": "a" * 129},
    ],
)  # fmt: skip
def test_an_option_that_means_nothing_is_named_and_never_sent(server, options):
    (name,) = options
    with Relay(server.ports.inference) as relay:
        with Client(f"http://127.0.0.1:{relay.port}", "key", retries=3) as client:
            with pytest.raises(ServingError, match=f"^{name} is .*; expected "):
                client.predict(MODEL, [0] * 64, **options)
        assert relay.requests == 0


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@examples(60, 300)
@given(
    model=st.text(max_size=3) | st.just("net"),
    x=ANYTHING,
    options=st.fixed_dictionaries({}, optional=dict.fromkeys(Options.__annotations__, ANYTHING)),
)
def test_whatever_predict_is_given_it_is_sent_or_refused_in_one_line(nobody, model, x, options):
    for client in nobody:
        with pytest.raises(ServingError) as error:
            client.predict(model, x, **options)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def nobody():
    """Clients of a server that is not there."""
    with Client("http://127.0.0.1:1", "key") as http, GrpcClient("127.0.0.1:1", "key") as grpc:
        yield http, grpc


@pytest.mark.parametrize("made", [Client, AsyncClient, GrpcClient, AsyncGrpcClient])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timeout": float("inf")}, "timeout is inf; expected seconds"),
        ({"timeout": None}, "timeout is None; expected seconds"),
        ({"timeout": 0}, "timeout is 0; expected more than 0 seconds"),
        ({"retries": -1}, "retries is -1; expected a whole number from 0"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"key": ""}, "the key is empty"),
        ({"key": None}, "a key is a token or the Path"),
        ({"key": "tökn"}, "the key holds what no token does"),
        ({"key": "a\r\nb: c"}, "the key holds what no token does"),
    ],
)
def test_a_client_that_can_not_work_is_refused_when_it_is_made(made, settings, words):
    with pytest.raises(ServingError, match=words):
        made("http://127.0.0.1:1", **{"key": "key", **settings})


@pytest.mark.parametrize("made", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "localhost:8080", "", "ftp://x", "http://", "http://a:b", None]
)
def test_an_address_that_is_no_url_is_refused_when_a_client_is_made(made, url):
    with pytest.raises(ServingError, match=r"url is .*expected one that begins with http:// or https://"):
        made(url, "key")


@pytest.mark.parametrize("place", ["127.0.0.1:1", "localhost:1"])
def test_that_nothing_listens_is_said_in_words(place):
    async def asked():
        async with AsyncClient(f"http://{place}", "key") as client:
            await client.predict("net", [0.0])

    words = "nothing listens there; eidetic status shows what runs$"
    url = f"http://{place}"
    with TorchServeManagement(url, "key", None, Path()) as management:
        for ask in (management.models, lambda: management.renew("inference", "key")):
            with pytest.raises(ServingError, match=words):
                ask()
    with Prober(url, "key") as prober, pytest.raises(ServingError, match=words):
        prober.ask("net", "", Question([0.0]))
    for made in (Client(f"http://{place}", "key"), GrpcClient(place, "key")):
        with made as client, pytest.raises(ServingError, match=words):
            client.predict("net", [0.0])
    with pytest.raises(ServingError, match=words):
        asyncio.run(asked())


def test_numbers_of_other_libraries_are_options_too_and_a_key_may_end_with_a_line_end(server, x):
    with Client(server.ports.inference_url, server.keys()["inference"] + "\n") as client:
        (found,) = client.predict(
            MODEL,
            x[0],
            top_k=np.int64(2),
            threshold=np.float32(0.25),
            probabilities=np.bool_(True),
            deadline=torch.tensor(PATIENCE),
        )
        assert len(found.top) == 2
        assert found.label_probabilities
