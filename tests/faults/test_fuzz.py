"""Thousands of requests that nobody should send, each answered with what it deserves, beside good clients
whose every answer is checked.

Counts: HTTP 70 %, gRPC 15 %, schemathesis (on the server's own OpenAPI document) 15 %. ``make test`` sends
500 in all, ``make test-all`` 10,000 more.
"""

import json
import re
from collections import Counter

import grpc
import httpx
import psutil
import pytest
from canary import Canary
from fuzz import GRPC_INPUTS, requests
from hypothesis import HealthCheck, Phase, example, given, settings
from protos import INFERENCE, Caller
from schemathesis import openapi

GOOD = {200, 400, 404, 405, 408, 413, 415}
GROWTH = 20e6
"""Bytes that both workers together may grow after a warm-up of 100 requests; 500 were seen to add 1.3e6.
Java is printed, not judged: its resident memory grew by 69e6 in that run, and whether that is a heap that
was not collected yet or a leak can't be told from resident memory."""
FRONT_END = {
    ("urlencoded", 500): re.compile(r"application/x-www-form-urlencoded", re.I),
    ("multipart", 500): re.compile(r"multipart/", re.I),
    ("charset", 403): re.compile(r"multipart/", re.I),
}
"""What TorchServe's front end answers by itself with anything but a 4xx of ours: its own 500 and 403."""


def quick(count):
    return settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


class Fuzzed:
    """Sends, judges and counts."""

    def __init__(self, server):
        self.url, self.key = server.running["inference"], server.keys()["inference"]
        self.http = httpx.Client(timeout=30, trust_env=False, headers={"Authorization": f"Bearer {self.key}"})
        self.grpc_port = int(server.running["grpc_inference"].rpartition(":")[2])
        self.seen = Counter()

    def over_http(self, count):
        @quick(count)
        @example(("net", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=%zz"))
        @example(("net", {"Content-Type": "application/x-www-form-urlencoded"}, b"=&="))
        @given(requests())
        def send(request):
            model, headers, body = request
            answer = self.http.post(f"{self.url}/predictions/{model}", headers=headers, content=body)
            self.judge(answer.status_code, headers["Content-Type"], answer.text, request)

        send()

    def judge(self, status, kind, text, request):
        self.seen[status] += 1
        if status in GOOD:
            if status == 400 and '"error"' in text:
                assert json.loads(text)["error"]["kind"] == "bad_request"
            return
        assert any(s == status and pattern.match(kind) for (_, s), pattern in FRONT_END.items()), (
            status,
            text,
            request,
        )

    def over_grpc(self, count):
        caller = Caller(f"{INFERENCE}.InferenceAPIsService", self.grpc_port, self.key)

        @quick(count)
        @given(GRPC_INPUTS)
        def send(fields):
            self.seen["grpc"] += 1
            try:
                answer = caller("Predictions", model_name="net", input=fields)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (fields, error)
            else:
                found = json.loads(answer.prediction)
                assert found.get("error", {}).get("kind") != "internal", (fields, found)

        send()
        caller.close()

    def by_document(self, server, count):
        document = server.control("/openapi.json").json()
        schema = openapi.from_dict(document)
        operations = [r.ok() for r in schema.get_all_operations()]
        assert len(operations) == 2
        for operation in operations:

            @quick(count // len(operations))
            @given(operation.as_strategy())
            def send(case):
                headers = {"Authorization": f"Bearer {self.key}"}
                answer = case.call(base_url=self.url, headers=headers)
                self.seen["document"] += 1
                self.judge(answer.status_code, str(case.media_type), answer.text, case)

            send()


def memory(server):
    top = psutil.Process(server.running["frontend"])
    return top.memory_info().rss, sum(worker.memory_info().rss for worker in server.workers())


def fuzz(server, count):
    fuzzed = Fuzzed(server)
    workers = {w.pid for w in server.workers()}
    with Canary(server, 2) as canary:
        fuzzed.over_http(100)  # the warm-up
        before = memory(server)
        fuzzed.over_http(count * 70 // 100)
        fuzzed.over_grpc(count * 15 // 100)
        fuzzed.by_document(server, count * 15 // 100)
        after = memory(server)
    fuzzed.http.close()
    print(dict(fuzzed.seen), "bytes of Java and workers", before, after, len(canary.asked))
    assert canary.wrong == []
    assert len(canary.asked) > 20
    assert {w.pid for w in server.workers()} == workers
    assert after[1] - before[1] < GROWTH, (before, after)
    assert sum(fuzzed.seen.values()) >= count * 0.95
    assert fuzzed.seen[200] > 0
    assert fuzzed.seen[400] > 0


def test_five_hundred_odd_requests_get_only_4xx_and_disturb_nobody(server):
    fuzz(server, 500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_odd_requests_get_only_4xx_and_disturb_nobody(server):
    fuzz(server, 10_000)
