"""Batches are read as TorchServe reads them, however the bytes arrive."""

import logging
import socket
import struct
import threading
from itertools import pairwise

import eidetic_wire
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.protocol import otf_message_handler

text = st.text(max_size=12).map(str.encode)
body = st.binary(max_size=300)
request = st.tuples(
    text, st.lists(st.tuples(text, text), max_size=4), st.lists(st.tuples(text, text, body), max_size=3)
)
# TorchServe leaves its version.txt open when it is imported
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
READ_ONE_BY_ONE = otf_message_handler._retrieve_inference_msg


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


@settings(max_examples=60, deadline=None)
@given(st.lists(request, max_size=4), st.data())
def test_a_batch_is_read_as_torchserve_reads_it_however_it_is_cut(requests, data):
    message = written(requests)
    cuts = data.draw(st.lists(st.integers(0, len(message)), max_size=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TS_DECODE_INPUT_REQUEST", "false")
        expected = read(READ_ONE_BY_ONE, message, cuts)
    assert read(eidetic_wire.read_batch, message, cuts) == expected


class Bytewise:
    """A connection that gives one byte at a time, the hardest way to cut a message."""

    def __init__(self, message):
        self.message, self.at = message, 0

    def recv(self, size):
        self.at += 1
        return self.message[self.at - 1 : self.at]


@settings(max_examples=30, deadline=None)
@given(st.lists(request, max_size=2))
def test_a_batch_that_comes_byte_by_byte_is_read(requests):
    assert len(eidetic_wire.read_batch(Bytewise(written(requests)))) == len(requests)


def test_a_worker_ends_when_its_front_end_is_gone():
    with pytest.raises(SystemExit) as ended:
        eidetic_wire.read_batch(Bytewise(written([(b"id", [], [])])[:-2]))
    assert ended.value.code == 0


def test_bytes_after_a_batch_are_an_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(written([]) + b"more")
        with pytest.raises(ValueError, match="4 bytes after"):
            eidetic_wire.read_batch(ours)


def test_another_torchserve_keeps_its_own_reader(monkeypatch):
    monkeypatch.setattr(otf_message_handler, "_retrieve_inference_msg", READ_ONE_BY_ONE)
    monkeypatch.setattr(eidetic_wire, "VERSION", "another")
    assert not eidetic_wire.install()
    assert otf_message_handler._retrieve_inference_msg is READ_ONE_BY_ONE


def test_the_torchserve_that_it_was_written_for_gets_it(monkeypatch):
    monkeypatch.setattr(otf_message_handler, "_retrieve_inference_msg", READ_ONE_BY_ONE)
    level = logging.getLogger().level
    try:
        assert eidetic_wire.install()
        assert otf_message_handler._retrieve_inference_msg is eidetic_wire.read_batch
    finally:
        logging.getLogger().setLevel(level)
