"""What is too large is refused before it costs anything; what is odd changes nothing for others."""

import gzip
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from eideticnet.client import GrpcClient
from eideticnet.serving.errors import MOST_BYTES, RequestError, ServingError
from tests.support.java_heap import collected
from tests.support.waiting import PATIENCE, until

ROW = {"data": [0] * 6}


def post(server, model, content, kind="application/octet-stream", headers=(), path="/predictions/"):
    usual = [("Authorization", f"Bearer {server.keys()['inference']}"), ("Content-Type", kind)]
    url = server.running["inference"] + path + model
    return httpx.post(url, content=content, headers=[*usual, *headers], trust_env=False, timeout=PATIENCE)


def kind(answer):
    return answer.status_code, answer.json()["error"]["kind"]


def peaks(server):
    """The most memory that the workers ever took, in bytes."""
    statuses = [Path(f"/proc/{worker.pid}/status").read_text() for worker in server.workers()]
    return sum(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024 for status in statuses)


def chunks(count):
    for _ in range(count):
        yield bytes(100_000)


def test_a_body_over_the_limit_is_refused_with_413_and_takes_no_memory(server):
    assert post(server, "net", bytes(MOST_BYTES - 1000)).status_code in (400, 413)
    held, before = collected(server.running["frontend"]), peaks(server)
    for _ in range(5):
        assert post(server, "net", bytes(MOST_BYTES + 1)).status_code == 413
        with suppress(httpx.TransportError):  # closed while we were still sending
            assert post(server, "net", chunks(700)).status_code == 413
    assert collected(server.running["frontend"]) - held < 30 << 20  # 380 MB were sent
    assert peaks(server) - before < 30 << 20
    assert server.predict(ROW).status_code == 200


def test_a_message_over_the_limit_is_refused_over_grpc(server, monkeypatch):
    with GrpcClient(server.running["grpc_inference"], server.secrets) as client:
        with pytest.raises(RequestError, match="expected 6553500 at most") as error:
            client.predict("net", np.zeros((300_000, 6), np.float32).tobytes())
        assert (error.value.status, error.value.kind) == (413, "too_large")
        with monkeypatch.context() as patch:  # a client that sends it all the same
            patch.setattr("eideticnet.serving.torchserve.services.MOST_BYTES", 1 << 30)
            with pytest.raises(ServingError):
                client.predict("net", np.zeros((300_000, 6), np.float32).tobytes())
        assert client.predict("net", ROW)["model_version"] == "1.0"


def test_more_instances_than_allowed_are_refused_in_every_payload(server):
    x = np.zeros((65, 6), np.float32)
    file = io.BytesIO()
    np.save(file, x)
    sent = [
        (json.dumps({"instances": x.tolist()}).encode(), "application/json"),
        (x.tobytes(), "application/octet-stream"),
        (file.getvalue(), "application/x-npy"),
    ]
    for content, content_type in sent:
        assert kind(post(server, "net", content, content_type)) == (413, "too_large")


def bomb(width, height):
    """A PNG of many pixels, a few kilobytes long."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((min(width, 20_000) + 1) * min(height, 1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(server):
    assert post(server, "picture", bomb(100, 100), "image/png").status_code == 200
    before = peaks(server)
    for size in ((101, 100), (20_000, 20_000), (2**31 - 1, 2**31 - 1)):
        assert kind(post(server, "picture", bomb(*size), "image/png"))[0] in (400, 413), size
    assert kind(post(server, "picture", bomb(20_000, 20_000), "image/png")) == (413, "too_large")
    assert peaks(server) - before < 50 << 20


def test_no_pickle_in_a_npy_file_is_loaded_by_the_server(server, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for array in (np.array([Evil()], object), np.array([Evil()] * 6, object)):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        assert kind(post(server, "net", file.getvalue(), "application/x-npy")) == (400, "bad_request")
    assert not (tmp_path / "ran").exists()


def test_an_option_smuggled_beside_another_is_refused_or_the_only_one(server):
    """Options given twice, over a header, the query and the body, never mean two things."""
    body = {"data": [0] * 6, "task": "task 0"}
    content = json.dumps(body).encode()
    for name in ("eidetic-task", "Eidetic-Task", "EIDETIC-TASK"):
        answer = post(server, "net", content, "application/json", [(name, "other")])
        assert kind(answer) == (400, "bad_request")
    form, sort = b"top_k=1&data=" + content, "application/x-www-form-urlencoded"
    assert post(server, "net", form + b"&top_k=1", sort).status_code == 200
    assert kind(post(server, "net", form + b"&top_k=2", sort)) == (400, "bad_request")
    for query in ("?top_k=1&top_k=2", "?top_k=2"):
        answer = post(server, "net/predict" + query, form, sort, path="/")
        assert kind(answer) == (400, "bad_request")
    answer = post(server, "net", content, "application/json", [("eidetic-recorded", "no")])
    assert kind(answer) == (400, "bad_request")
    for query in ("?task=other", "?model_version=9.0", "?customized_metadata=x"):
        answer = post(server, "net" + query, content, "application/json")
        assert answer.status_code >= 400 or answer.json()["model_version"] == "1.0"
    for name in ("model", "request_type", "model_name"):
        answer = post(server, "net", content, "application/json", [(name, "picture")])
        assert answer.json()["model_version"] == "1.0"


def raw(server, head, body=b""):
    """All answers on one connection, to bytes that no library would send."""
    port = int(server.running["inference"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        s.sendall(head.encode("latin-1") + b"\r\n\r\n" + body)
        s.settimeout(1.5)
        found = b""
        try:
            while data := s.recv(65536):
                found += data
        except (TimeoutError, ConnectionResetError):
            pass
    return found.decode("latin-1")


def test_no_log_line_and_no_header_can_be_forged(server):
    """Line ends and control characters in ids, tasks and paths stay inside one JSON string."""
    forged = 'x\r\n{"level": "error", "message": "forged"}\x1b[2J'
    quoted = "x%0d%0a%7B%22message%22: %22forged%22%7D%1b[2J"
    body = json.dumps({"data": [], "task": forged}).encode()
    answer = post(
        server, "net", body, "application/json", [("x-request-id", quoted), ("eidetic-task", quoted)]
    )
    assert answer.status_code == 400
    assert "\x1b" not in answer.text
    post(server, "net", b'{"data": [], "' + forged.encode()[:1] + b'": 1}', "application/json")
    head = f"POST /predictions/net HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.keys()['inference']}"
    raw(server, head + "\r\nx-request-id: a\x1b[2J\x0b\x85b\r\nContent-Length: 2", b"{}")
    post(server, "no%0d%0aforged%1b[2J", b"{}", "application/json")
    path = server.home / "logs/requests.jsonl"
    until(path.exists)
    for line in path.read_text().splitlines():
        assert json.loads(line)["message"] != "forged"
        assert line.isprintable()
    log = (server.home / "logs/torchserve.log").read_text(errors="replace")
    assert not [line for line in log.splitlines() if line.startswith(("forged", "{"))]
    assert "\x1b" not in log


ODD = [
    "GET /%zz HTTP/1.1\r\nHost: x",
    "GET /" + "%zz" * 1300 + " HTTP/1.1\r\nHost: x",
    "POST /predictions/%zz HTTP/1.1\r\nContent-Length: 0",
    "GET /predictions/net/%e0%80 HTTP/9.9\r\nHost: x",
    "PRI * HTTP/2.0",
    "\x16\x03\x01\x00 no HTTP",
]


@pytest.mark.parametrize("head", ODD)
def test_an_odd_request_without_a_key_costs_one_short_line_of_the_log(server, head):
    log = server.home / "logs/torchserve.log"
    before = log.stat().st_size
    raw(server, head)
    added = log.read_bytes()[before:]
    assert len(added) <= 1200
    assert added.count(b"\n") <= 1


def test_any_number_of_odd_requests_without_a_key_costs_few_lines_of_the_log(server):
    """Fifty at once, and one a second."""
    log = server.home / "logs/torchserve.log"
    before, began = log.stat().st_size, time.monotonic()
    port = int(server.running["inference"].rpartition(":")[2])
    for _ in range(400):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
            s.sendall(f"{ODD[0]}\r\n\r\n".encode())
            assert s.recv(1)
    assert log.read_bytes()[before:].count(b"\n") < 60 + time.monotonic() - began


def test_a_form_whose_part_has_another_name_and_a_packed_body_are_understood(server):
    content, key = json.dumps(ROW).encode(), {"Authorization": f"Bearer {server.keys()['inference']}"}
    url = server.running["inference"] + "/predictions/net"
    answer = httpx.post(url, files={"file": content}, headers=key, timeout=PATIENCE, trust_env=False)
    assert kind(answer) == (400, "bad_request")
    assert "expected a part or entry called data" in answer.json()["error"]["message"]
    for coding, pack, status in (
        ("gzip", gzip.compress, 200),
        ("deflate", zlib.compress, 200),
        ("br", bytes, 415),
        ("gzip", bytes, 400),
        ("gzip", lambda _: gzip.compress(bytes(MOST_BYTES + 1)), 413),
    ):
        answer = post(server, "net", pack(content), "application/json", [("Content-Encoding", coding)])
        assert answer.status_code == status, (coding, answer.text)


def test_a_client_that_sends_nothing_keeps_nobody_from_an_answer(server):
    """TorchServe lets slow clients wait for ever, but they cost one connection each and no worker."""
    port = int(server.running["inference"].rpartition(":")[2])
    slow = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(200)]
    try:
        for s in slow:
            s.sendall(b"POST /predictions/net HTTP/1.1\r\nContent-Length: 100\r\n")
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.predict(ROW).status_code)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
    finally:
        for s in slow:
            s.close()
