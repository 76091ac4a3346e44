"""Thousands of requests that nobody should send, each answered as the OpenAPI document says, beside good
clients whose every answer is checked.

They go out in rounds of 500: 350 over HTTP, 75 as entries of gRPC's map, and 75 that schemathesis draws from
the document, half of which break it. Some more go at once, so that good ones are in the same batches.
``make test`` sends one round of 200, ``make test-all`` 20 more. The draws depend on the round's number alone.
"""

import itertools
import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.answer_verdicts import FRONT_END, Verdicts
from tests.support.canary import Canary
from tests.support.java_heap import collected
from tests.support.odd_requests import FORM, Request, grpc_inputs, requests
from tests.support.served_process import asleep
from tests.support.torchserve_grpc import INFERENCE, Caller
from tests.support.waiting import PATIENCE, until

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
ROUND = 500


def drawn(count, number):
    """Runs a test ``count`` times on draws that depend on ``number``."""
    chosen = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(number)(chosen(test))


class Fuzz:
    """Sends, judges and counts. A context manager: it holds connections."""

    def __init__(self, server):
        self.document = server.control("/openapi.json").json()
        self.verdicts = Verdicts(self.document)
        self.url, key = server.running["inference"], server.keys()["inference"]
        self.headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=self.url, headers=self.headers, timeout=PATIENCE, trust_env=False)
        port = int(server.running["grpc_inference"].rpartition(":")[2])
        self.grpc = Caller(f"{INFERENCE}.InferenceAPIsService", port, key)
        self.seen = Counter()
        operations = [found.ok() for found in openapi.from_dict(self.document).get_all_operations()]
        assert len(operations) == 2
        modes = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
        self.cases = st.one_of([o.as_strategy(generation_mode=m) for o in operations for m in modes])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.http.close()
        self.grpc.close()

    def over_http(self, count, number):
        @drawn(count, number)
        @given(requests())
        def send(request):
            self.seen["http", self.one_over_http(request)] += 1

        send()

    def one_over_http(self, request):
        headers = {**request.headers, "Content-Type": request.kind}
        answer = self.http.post(f"/predictions/{request.model}", headers=headers, content=request.body)
        return self.verdicts.of(request, answer)

    def at_once(self, server):
        """Odd requests that wait for the workers beside the canary's until there are several."""

        @drawn(3, 0)
        @given(st.lists(requests(), min_size=12, max_size=12))
        def send(drawn):
            odd, asked = itertools.cycle(replace(request, model="net") for request in drawn), []

            def several_wait():
                asked.append(pool.submit(self.one_over_http, next(odd)))
                return server.waiting("1.0") > 2

            with ThreadPoolExecutor(100) as pool:
                with asleep(server.workers()):
                    until(several_wait)
                for one in asked:
                    one.result()

        send()

    def over_grpc(self, count, number):
        @drawn(count, number)
        @given(st.sampled_from(["net", "picture"]), grpc_inputs())
        def send(model, entries):
            self.one_over_grpc(model, entries)

        send()

    def one_over_grpc(self, model, entries):
        text = self.grpc("Predictions", model_name=model, input=entries).prediction.decode()
        error = json.loads(text).get("error")
        assert self.verdicts.described(model, 400 if error else 200, text), (model, entries, text)
        self.seen["grpc", error["kind"] if error else "answered"] += 1

    def by_document(self, count, number):
        @drawn(count, number)
        @given(self.cases)
        def send(case):
            answer = case.call(base_url=self.url, headers=self.headers)
            said = str(answer.status_code)
            if said == "500":
                said = self.verdicts.of(*self.sent(case, answer))
            else:
                case.validate_response(answer, checks=CHECKS)
            self.seen["document", said] += 1

        send()

    @staticmethod
    def sent(case, answer):
        """The request that schemathesis made, and its answer."""
        sent, model = answer.request, case.path.rpartition("/")[2]
        body = sent.body.encode() if isinstance(sent.body, str) else sent.body or b""
        kind = sent.headers.get("content-type", "").encode()
        headers = {"content-type": ",".join(answer.headers["content-type"])}
        return Request(model, kind, {}, body), httpx.Response(
            answer.status_code, headers=headers, content=answer.content
        )

    def round(self, number, count):
        """A way that has no more different draws sends fewer than asked; HTTP makes up for it."""
        before = self.seen.total()
        self.over_grpc(count * 15 // 100, number)
        self.by_document(count * 15 // 100, number)
        again = 0
        while (missing := count - (self.seen.total() - before)) > 0:
            self.over_http(missing, 1000 * number + again)
            again += 1


def memory(server):
    """Bytes: Java's objects after a collection, the resident memory of both workers."""
    workers = sum(worker.memory_info().rss for worker in server.workers())
    return {"objects": collected(server.running["frontend"]), "workers": workers}


def shared(server):
    """How many batches held more than one request so far."""
    text, found = server.control("/metrics").text, Counter()
    line = re.compile(r'^eidetic_batch_requests_(count|bucket(?=\{[^}]*le="1.0")).* (\S+)$', re.M)
    for name, count in line.findall(text):
        found[name] += float(count)
    return found["count"] - found["bucket"]


LIMITS = {"objects": 8e6, "workers": 20e6}


@pytest.mark.parametrize(
    ("rounds", "count"),
    [(1, 200), pytest.param(20, ROUND, marks=[pytest.mark.slow, pytest.mark.timeout(7200)], id="20")],
)
def test_odd_requests_get_what_the_document_says_and_disturb_nobody(server, rounds, count):
    pids = {worker.pid for worker in server.workers()}
    java = psutil.Process(server.running["frontend"])
    started, memories = time.monotonic(), []
    with Canary(server, 3) as canary, Fuzz(server) as fuzz:
        fuzz.round(999, 80)
        fuzz.one_over_grpc("net", {"data": b'{"data": [0, 0, 0, 0, 0, 0]}'})  # of those drawn few are good
        warm = fuzz.seen.total()
        memories.append(memory(server))
        for number in range(rounds):
            fuzz.round(number, count)
            canary.answered(20)
            memories.append(memory(server))
            print(f"{time.monotonic() - started:.0f} s", fuzz.seen.total() - warm, memories[-1], flush=True)
        before = shared(server)
        fuzz.at_once(server)
        until(lambda: shared(server) > before)  # counted after the answers
    print(f"{len(canary.asked)} good answers, memory first {memories[0]}")
    print(*sorted(fuzz.seen.items()), sep="\n")
    assert fuzz.seen.total() - warm == rounds * count
    assert canary.wrong == []
    assert java.is_running()
    assert {worker.pid for worker in server.workers()} == pids
    grown = {name: memories[-1][name] - memories[0][name] for name in LIMITS}
    assert all(grown[name] <= limit for name, limit in LIMITS.items()), grown
    ways = ("http", "200"), ("http", "400"), ("http", "415"), ("document", "200"), ("grpc", "answered")
    for way in ways:
        assert fuzz.seen[way] > 0, way


FORM_OF_PARTS = b"multipart/form-data; boundary=edge"


def part(head, body=b'{"data": [0, 0, 0, 0, 0, 0]}'):
    return FORM_OF_PARTS, b"--edge\r\n" + head + b"\r\n\r\n" + body + b"\r\n--edge--\r\n"


FILE = b'Content-Disposition: form-data; name="data"; filename="f"\r\n'
SHAPES = {
    "an escape that is none": (FORM.encode(), b"a=%zz"),
    "a field without a name": (FORM.encode(), b"=&="),
    "a part with an empty name": part(b'Content-Disposition: form-data; name=""'),
    "a part without a name": part(b"Content-Disposition: form-data"),
    "a transfer encoding": part(FILE + b"Content-Transfer-Encoding: base64"),
    "a part longer than it says": part(FILE + b"Content-Length: 3"),
    "a charset that is none, of a part": part(FILE + b"Content-Type: text/plain; charset=none"),
    "a charset that is none, of the form": (FORM_OF_PARTS + b"; charset=none", b""),
    "an empty boundary": (b"multipart/form-data; boundary=", b""),
}


def test_each_shape_that_the_front_end_answers_by_itself_is_known_by_name_and_there_are_no_others(server):
    assert SHAPES.keys() == FRONT_END.keys()
    told = {}
    with Canary(server, 1) as canary, Fuzz(server) as fuzz:
        for name, (kind, body) in SHAPES.items():
            answer = fuzz.http.post("/predictions/net", headers={"Content-Type": kind}, content=body)
            told[name] = fuzz.verdicts.of(Request("net", kind, {}, body), answer)
        canary.answered(5)
    assert told == {name: f"{shape.status}, {name}" for name, shape in FRONT_END.items()}
    assert canary.wrong == []
