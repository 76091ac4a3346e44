"""What a replica of Ray Serve says over HTTP: what the model says, byte for byte, and what is said before a
model is asked, in the same form."""

import asyncio
import gzip
import io
import json
import socket
import time
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from eideticnet.client import Client
from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.errors import MOST_BYTES, RequestError, WrongKeyError
from eideticnet.serving.openapi.document import document
from eideticnet.serving.ray.told import ERROR_SCHEMA
from eideticnet.serving.ray.web import MOST_WAITING
from tests.support.answer_verdicts import Verdicts
from tests.support.odd_requests import Request, requests
from tests.support.pictures import picture
from tests.support.ray_replica import TOKEN, replica
from tests.support.smallest_archive import small_archives
from tests.support.waiting import PATIENCE

JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
KEY = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def served(versions, colours):
    with replica([versions["1.0"], versions["2.0"], colours.path]) as found:
        yield found


@pytest.fixture(scope="module")
def http(served):
    with httpx.Client(base_url=served[1], headers=KEY, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def x(versions):
    archive = read_archive(versions["1.0"])
    return np.concatenate(list(archive.probes.values()))[:4].astype("<f4")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def asked(served, fields, model="net", version=None, **headers):
    """What the model itself answers to a request as an engine hands it over."""
    (reply,), _ = served[0].models.find(model, version).answer([("", headers, fields)])
    return reply.status, reply.body


def test_every_form_of_a_request_gets_the_very_bytes_that_the_model_gives(served, http, x):
    row, task = x[0], served[0].models.find("net").bundle["tasks"][0]["name"]
    one, packed = json.dumps({"data": row.tolist()}).encode(), gzip.compress(x.tobytes())
    path, form = "/predictions/net", "multipart/form-data"
    cases = [
        (http.post(path, content=one), {"body": one}, {}),
        (http.post(path, content=one, headers={"Content-Type": JSON}), {"body": one}, {"content-type": JSON}),
        (http.post(path, content=x.tobytes(), headers={"Content-Type": RAW, "eidetic-top-k": "2"}),
         {"body": x.tobytes()}, {"content-type": RAW, "eidetic-top-k": "2"}),
        (http.post(path, content=npy(x), headers={"Content-Type": NPY}), {"body": npy(x)},
         {"content-type": NPY}),
        (http.post(path, content=packed, headers={"Content-Type": RAW, "Content-Encoding": "gzip"}),
         {"body": packed}, {"content-type": RAW, "content-encoding": "gzip"}),
        (http.post(path, files={"data": ("x", row.tobytes(), RAW)}, data={"task": task, "top_k": "1"}),
         {"data": row.tobytes(), "task": task.encode(), "top_k": b"1"},
         {"data": {"content-type": RAW}, "content-type": form}),
        (http.post(path, files={"data": ("x", npy(row))}), {"data": npy(row)}, {"content-type": form}),
        (http.post(path, data={"data": one.decode(), "top_k": "1"}), {"data": one, "top_k": b"1"},
         {"content-type": "application/x-www-form-urlencoded"}),
        (http.post(path, content=b"{", headers={"Content-Type": JSON}), {"body": b"{"},
         {"content-type": JSON}),
        (http.post(path, content=b"\0", headers={"Content-Type": RAW}), {"body": b"\0"},
         {"content-type": RAW}),
        (http.post(path, content=b"x", headers={"Content-Type": "text/css"}), {"body": b"x"},
         {"content-type": "text/css"}),
    ]  # fmt: skip
    for response, fields, headers in cases:
        assert (response.status_code, response.content) == asked(served, fields, **headers), (fields, headers)
        assert response.headers["content-type"] == JSON
    assert {response.status_code for response, *_ in cases} == {200, 400, 415}


def test_a_picture_gets_the_very_bytes_that_the_model_gives(served, http):
    sent = picture("blue", 3, kind="PNG")
    found = http.post("/predictions/colours", content=sent, headers={"Content-Type": "image/png"})
    expected = asked(served, {"body": sent}, "colours", **{"content-type": "image/png"})
    assert (found.status_code, found.content) == expected
    assert found.json()["task"]


def test_a_version_that_is_named_answers_and_the_senders_id_comes_back(served, http, x):
    found = [
        http.post(
            f"/predictions/net{version}", json={"data": x[0].tolist()}, headers={"x-request-id": "mine"}
        )
        for version in ("", "/1.0", "/2.0")
    ]
    assert [answer.json()["model_version"] for answer in found] == ["1.0", "1.0", "2.0"]
    assert {answer.headers["eidetic-request-id"] for answer in found} == {"mine"}


def refused(response, status, kind, field, words=""):
    """The error has the form that the document describes."""
    body = response.json()
    Draft202012Validator(ERROR_SCHEMA).validate(body)
    assert (response.status_code, body["error"]["kind"], body["error"]["field"]) == (status, kind, field)
    assert words in body["error"]["message"]


def test_what_reaches_no_model_is_told_in_the_form_of_the_models_errors(http):
    refused(http.post("/predictions/other", json={}), 404, "not_found", "model", "there are: colours, net")
    refused(http.post("/predictions/net/9.0", json={}), 404, "not_found", "version", "1.0, 2.0")
    refused(http.get("/predictions/net"), 405, "method_not_allowed", "method", "POST")
    for path in ("/", "/predictions", "/predictions/net/1.0/more", "/nowhere", "/v2x"):
        refused(http.post(path, json={}), 404, "not_found", "path")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": TOKEN}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKEN}"},
     {"Authorization": f"Bearer {TOKEN}\xff".encode("latin-1")}],
)  # fmt: skip
def test_without_the_token_nothing_is_answered_but_that_the_server_is_there(served, headers):
    with httpx.Client(base_url=served[1], headers=headers, timeout=PATIENCE, trust_env=False) as stranger:
        for path in ("/predictions/net", "/predictions/nobody", "/v2/models/net/infer"):
            answer = stranger.post(path, json={"data": []})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/openapi.json", "/v2/models/net", "/v2/models/net/ready"):
            assert stranger.get(path).status_code == 401
        for path in ("/ping", "/v2", "/v2/health/live", "/v2/health/ready"):
            assert stranger.get(path).status_code == 200


def test_our_client_understands_a_wrong_key_and_an_unknown_model(served, x):
    with Client(served[1], "wrong") as client, pytest.raises(WrongKeyError):
        client.predict("net", x)
    with Client(served[1], TOKEN) as client:
        assert [answer.model_version for answer in client.predict("net", x)] == ["1.0"] * len(x)
        with pytest.raises(RequestError, match="there are: colours, net") as error:
            client.predict("nobody", x)
        assert (error.value.status, error.value.kind) == (404, "not_found")


def test_a_body_too_large_is_refused_before_it_is_read(served):
    """With its length stated nothing of it is waited for; without, no more than the limit is read."""
    host, port = served[1].removeprefix("http://").split(":")
    head = f"POST /predictions/net HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    for length, body in (
        (f"Content-Length: {MOST_BYTES + 1}", b""),
        ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (MOST_BYTES + 1, bytes(MOST_BYTES + 1))),
    ):
        with socket.create_connection((host, int(port)), PATIENCE) as stream:
            stream.sendall(f"{head}{length}\r\n\r\n".encode() + body)
            answer = stream.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"kind":"too_large","field":"body"' in answer
    with socket.create_connection((host, int(port)), PATIENCE) as stream:  # not even read
        stream.sendall(b"POST /predictions/net HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert stream.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


def test_a_full_server_answers_503_at_once_and_the_others_still(served, x):
    made, url = served

    async def ask(count):
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=url, headers=KEY, limits=limits, timeout=PATIENCE, trust_env=False
        ) as client:
            made.open.clear()
            waiting = [
                asyncio.create_task(client.post("/predictions/net", json={"data": x[0].tolist()}))
                for _ in range(count)
            ]
            started = time.monotonic()
            while (
                not (done := [task for task in waiting if task.done()])
                and time.monotonic() < started + PATIENCE
            ):
                await asyncio.sleep(0.01)
            first = done[0].result()
            made.open.set()
            return first, await asyncio.gather(*waiting)

    first, all_of_them = asyncio.run(ask(MOST_WAITING + 1))
    refused(first, 503, "unavailable", "request", f"{MOST_WAITING} requests")
    assert first.headers["retry-after"] == "1"
    assert sorted(answer.status_code for answer in all_of_them) == [200] * MOST_WAITING + [503]


FORM = "multipart/form-data; boundary=b"
NAMED = b'--b\r\nContent-Disposition: form-data; name="task"\r\n\r\n'
BROKEN = {
    "no boundary": ("multipart/form-data", b""),
    "an empty boundary": ("multipart/form-data; boundary=", b""),
    "no part": (FORM, b"--b--\r\n"),
    "cut short": (FORM, NAMED + b"x"),
    "no name": (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
    "twice": (FORM, NAMED + b"1\r\n" + NAMED + b"2\r\n--b--\r\n"),
    "many parts": (FORM, (NAMED + b"1\r\n") * 65 + b"--b--\r\n"),
    "many fields": ("application/x-www-form-urlencoded", urlencode([("a", "1")] * 65).encode()),
    "600,000 fields": ("application/x-www-form-urlencoded", b"&".join([b"a=1234567"] * 600_000)),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), BROKEN.values(), ids=BROKEN)
def test_a_broken_form_is_a_bad_request_of_the_body(http, kind, body):
    answer = http.post("/predictions/net", content=body, headers={"Content-Type": kind})
    refused(answer, 400, "bad_request", "body", "is a form that")


def test_the_document_is_that_of_the_models_that_answer(http, served):
    expected = document(
        [served[0].models.find(name).archive.bundle for name in ("colours", "net")], ERROR_SCHEMA
    )
    assert http.get("/openapi.json").json() == json.loads(json.dumps(expected))


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The smallest archives, which odd requests are drawn for."""
    with replica(list(small_archives(tmp_path_factory.mktemp("odd")).values())) as (_, url):
        with httpx.Client(base_url=url, headers=KEY, timeout=PATIENCE, trust_env=False) as client:
            yield client, Verdicts(client.get("/openapi.json").json())


@settings(max_examples=60)
@given(request=requests())
def test_odd_requests_get_what_the_document_says(odd, request: Request):
    client, verdicts = odd
    headers = {"Content-Type": request.kind, **request.headers}
    answer = client.post(f"/predictions/{request.model}", headers=headers, content=request.body)
    assert verdicts.described(request.model, answer.status_code, answer.text), (request, answer.text)
    assert " at 0x" not in answer.text
