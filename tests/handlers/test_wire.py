"""Batches are read and answered as TorchServe would, however the bytes arrive."""

import logging
import socket
import struct
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler
from ts.service import Service

import eidetic_wire
from eidetic_runtime.reply import JSON_HEADERS, Reply
from eidetic_runtime.telemetry import Batch

text = st.text(max_size=12).map(str.encode)
body = st.binary(max_size=300) | st.just(b"\xff" * 40)
head = st.lists(st.tuples(text, text), max_size=4)
fields = st.lists(st.tuples(text, text, body), max_size=3, unique_by=lambda field: field[0])
request = st.tuples(text, head, fields)
one_client = st.tuples(st.just([(b"Host", b"here")]), st.tuples(text, text)).flatmap(
    lambda same: st.lists(st.tuples(text, st.just(same[0]), body.map(lambda b: [(*same[1], b)])), max_size=4)
)
# TorchServe leaves its version.txt open when it is imported
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
READ_ONE_BY_ONE = otf_message_handler._retrieve_inference_msg
PREDICT = Service.predict


def written(requests):
    def value(data):
        return struct.pack("!i", len(data)) + data

    end, message = struct.pack("!i", -1), b""
    for name, headers, parameters in requests:
        message += value(name) + b"".join(value(v) for header in headers for v in header) + end
        message += b"".join(value(v) for parameter in parameters for v in parameter) + end
    return message + end


def read(reader, message, cuts):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bounds = [0, *sorted(cuts), len(message)]
        pieces = [message[a:b] for a, b in pairwise(bounds)]
        sender = threading.Thread(target=lambda: [theirs.sendall(piece) for piece in pieces])
        sender.start()
        found = reader(ours)
        sender.join()
    return found


def as_torchserve_reads(message, cuts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TS_DECODE_INPUT_REQUEST", "false")
        batch = read(READ_ONE_BY_ONE, message, cuts)
    headers, fields, ids = Service.retrieve_data_for_inference(batch)
    return [(ids[i], h.get_request_properties(), fields[i]) for i, h in enumerate(headers)]


@settings(max_examples=100)
@given(st.lists(request, max_size=4) | one_client, st.data())
def test_a_batch_is_read_as_torchserve_reads_it_however_it_is_cut(requests, data):
    message = written(requests)
    cuts = data.draw(st.lists(st.integers(0, len(message)), max_size=5))
    assert read(eidetic_wire.read_batch, message, cuts) == as_torchserve_reads(message, cuts)


def test_a_field_that_is_there_twice_is_seen_unless_both_agree():
    sent = [(b"task", b"", b"cats"), (b"body", b"", b"{}"), (b"task", b"", b"cats"), (b"task", b"", b"dogs")]
    ((_, _, fields),) = read(eidetic_wire.read_batch, written([(b"id", [], sent)]), [])
    assert fields == {"task": b"cats", "body": b"{}", "task (given again, differently)": b"dogs"}


class Bytewise:
    """A connection that gives one byte at a time, the hardest way to cut a message."""

    def __init__(self, message):
        self.message, self.at = message, 0

    def recv(self, size):
        self.at += 1
        return self.message[self.at - 1 : self.at]


@settings(max_examples=30)
@given(st.lists(request, max_size=2))
def test_a_batch_that_comes_byte_by_byte_is_read(requests):
    assert len(eidetic_wire.read_batch(Bytewise(written(requests)))) == len(requests)


def test_requests_with_the_same_headers_share_what_was_read_of_them():
    one = (b"1", [(b"Host", b"here")], [(b"body", b"kind", b"1")])
    same, other = (b"2", *one[1:]), (b"3", [(b"Host", b"there")], one[2])
    a, b, c = read(eidetic_wire.read_batch, written([one, same, other]), [])
    assert a[1] is b[1]
    assert c[1] == {"Host": "there", "body": {"content-type": "kind"}}


def test_a_worker_ends_when_its_front_end_is_gone():
    with pytest.raises(SystemExit) as ended:
        eidetic_wire.read_batch(Bytewise(written([(b"id", [], [])])[:-2]))
    assert ended.value.code == 0


def test_bytes_after_a_batch_are_an_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(written([]) + written([]))
        with pytest.raises(ValueError, match="4 bytes after"):
            eidetic_wire.read_batch(ours)


HEADERS = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=3)
REPLIES = st.builds(
    Reply,
    st.binary(max_size=40),
    st.sampled_from([200, 400, 408, 500]),
    st.just(JSON_HEADERS) | HEADERS.map(lambda more: {**JSON_HEADERS, **more}),
)


def decoded(message):
    """(status, message, [(id, content type, status, phrase, headers, body)]) as the front end reads it: a
    content type that stands among the headers too is set twice."""
    at = 0

    def number():
        nonlocal at
        at += 4
        return struct.unpack_from("!i", message, at - 4)[0]

    def value():
        nonlocal at
        size = number()
        at += size
        return message[at - size : at]

    status, told, replies = number(), value(), []
    while message[at : at + 4] != struct.pack("!i", -1):
        request_id, kind, code, phrase = value(), value(), number(), value()
        headers = {value(): value() for _ in range(number())}
        replies.append((request_id, kind, code, phrase, {b"content-type": kind} | headers, value()))
    assert at + 4 == len(message)
    return status, told, replies


class Handler:
    """Answers every batch with the same replies, and notes that it was counted after it was answered."""

    def __init__(self, replies, connection):
        self.replies, self.connection, self.watched = replies, connection, None
        self.model = self.telemetry = self

    def answer(self, rows):
        if self.replies is None:
            raise MemoryError
        return self.replies, Batch([], [], [], {}, {})

    def batch(self, batch):
        self.connection.settimeout(0)
        self.watched = self.connection.recv(1 << 20)

    def handle(self, data, context):
        for i, reply in enumerate(self.replies):
            for name, value in reply.headers.items():
                context.set_response_header(i, name, value)
            phrase = {200: "", 400: "Bad Request", 408: "Request Timeout", 500: "Internal Server Error"}
            context.set_response_status(reply.status, phrase[reply.status], idx=i)
        return [reply.body for reply in self.replies]


def answered(replies):
    """What is sent for a batch, by this project's code and by TorchServe's own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = Handler(replies, theirs)
        service = type("Of", (), {"_entry_point": handler.handle, "cl_socket": ours})
        rows = [(f"id-{i}", {}, {}) for i in range(len(replies or [0]))]
        assert eidetic_wire.predict(service, rows) == b""
        sent = handler.watched if replies is not None else theirs.recv(1 << 20)
    context = Context("m", "/", None, 1, None, "0.12.0")
    context.request_processor = [RequestProcessor({}) for _ in rows]
    ids = {i: row[0] for i, row in enumerate(rows)}
    if replies is None:
        return sent, otf_message_handler.create_predict_response(None, ids, "Out of resources", 507)
    bodies = handler.handle([], context)
    own = otf_message_handler.create_predict_response(bodies, ids, "Prediction success", 200, context)
    return sent, bytes(own)


@given(st.lists(REPLIES, min_size=1, max_size=4))
def test_a_batch_is_answered_as_torchserve_would_and_only_then_counted(replies):
    ours, own = answered(replies)
    assert decoded(ours) == decoded(own)


def test_a_batch_that_fails_as_a_whole_is_told_as_torchserve_would():
    ours, own = answered(None)
    assert decoded(ours)[:2] == decoded(own)[:2] == (507, b"Out of resources")
    assert [(r[0], r[2]) for r in decoded(ours)[2]] == [(r[0], r[2]) for r in decoded(own)[2]]


@pytest.fixture
def torchserve(monkeypatch):
    """TorchServe's own functions, which are put back afterwards."""
    monkeypatch.setattr(otf_message_handler, "_retrieve_inference_msg", READ_ONE_BY_ONE)
    monkeypatch.setattr(Service, "predict", PREDICT)
    level = logging.getLogger().level
    yield monkeypatch
    logging.getLogger().setLevel(level)


def test_another_torchserve_keeps_its_own_functions(torchserve):
    torchserve.setattr(eidetic_wire, "VERSION", "another")
    assert not eidetic_wire.install()
    assert otf_message_handler._retrieve_inference_msg is READ_ONE_BY_ONE
    assert Service.predict is PREDICT


def test_the_torchserve_that_it_was_written_for_gets_ours(torchserve):
    assert eidetic_wire.install()
    assert otf_message_handler._retrieve_inference_msg is eidetic_wire.read_batch
    assert Service.predict is eidetic_wire.predict
