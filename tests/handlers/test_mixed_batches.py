"""Whatever stands beside it in a batch, a good request gets its answer and a bad one its own error."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from eidetic_handler import EideticHandler
from hypothesis import given
from hypothesis import strategies as st

from eidetic_runtime.pictures import from_image
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from tests.support.example_counts import examples
from tests.support.handler_context import HTTP, Context
from tests.support.pictures import network, picture

ROOT = Path(__file__).parents[2]
JSON, RAW, NPY, PNG = "application/json", "application/octet-stream", "application/x-npy", "image/png"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A handler of pictures in ONNX, unpacked from its archive."""
    folder, bundle = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("bundle")
    write_bundle(network(folder / "files"), bundle, name="colours", model_version="2.0", max_instances=3)
    write_archive(bundle, ROOT / "handlers", folder / "colours.mar")
    zipfile.ZipFile(folder / "colours.mar").extractall(folder / "model")
    handler = EideticHandler()
    handler.initialize(Context(folder / "model"))
    return handler, folder


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def ask(served, requests):
    """Statuses and answers of a batch of (row, headers)."""
    handler, folder = served
    context = Context(folder, [headers for _, headers in requests])
    answers = handler.handle([row for row, _ in requests], context)
    return list(zip(context.statuses, map(json.loads, answers), strict=True))


def sent(body, kind):
    """The same payload as a body, a part of a form, and an entry of gRPC's map."""
    form = {"Content-Type": "multipart/form-data", **HTTP}
    return [
        ({"body": bytearray(body)}, {"body": {"content-type": kind}, **HTTP}),
        ({"data": bytearray(body)}, {"data": {"content-type": kind}, **form}),
        ({"data": bytearray(body), "content_type": bytearray(kind.encode())}, {"data": {"content-type": ""}}),
    ]


def good(handler):
    """The same pictures as every kind of payload, by picture."""
    for colour, seed in (("red", 1), ("cyan", 2)):
        file = picture(colour, seed)
        x = from_image(file, "body", handler.model.contract)[0]
        inputs = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        yield [
            *sent(json.dumps({"data": x.tolist()}).encode(), JSON),
            *sent(x.tobytes(), RAW),
            *sent(npy(x), NPY),
            *sent(file, PNG),
            *sent(json.dumps({"id": "7", "inputs": [inputs]}).encode(), JSON)[::2],
        ]


NUMBERS = np.zeros((3, 6, 5), np.float32)
BAD = [
    *sent(b"{", JSON),
    *sent(json.dumps({"data": [1]}).encode(), JSON),
    *sent(b'{"id": "8", "inputs": []}', JSON),
    *sent((NUMBERS + np.nan).tobytes(), RAW),
    *sent((NUMBERS + 2).tobytes(), RAW),
    *sent(NUMBERS.tobytes() * 4, RAW),
    *sent(NUMBERS.tobytes()[1:], RAW),
    *sent(npy(NUMBERS)[:-1], NPY),
    *sent(npy(np.array([{}])), NPY),
    *sent(picture("red", 0)[:60], PNG),
    *sent(b"GIF89a", "image/gif"),
    ({"body": NUMBERS.tobytes()}, {"Content-Type": RAW, "eidetic-task": "none", **HTTP}),
    ({"body": NUMBERS.tobytes()}, {"Content-Type": RAW, "eidetic-deadline-ms": "1", **HTTP}),
    ({}, HTTP),
]


def told(answer):
    """What was chosen, whatever protocol it was asked in."""
    if "outputs" in answer:
        answer = next(t["data"][0] for t in answer["outputs"] if t["name"] == "answer")
    return answer["task"], answer["label"], answer["unknown"]


@examples(15, 40)
@given(data=st.data())
def test_no_bad_request_of_any_payload_disturbs_its_batch(served, data):
    kinds = list(good(served[0]))
    alone = [told(ask(served, [requests[0]])[0][1]) for requests in kinds]
    choices = [(i, r) for i, requests in enumerate(kinds) for r in requests] + [(None, r) for r in BAD]
    batch = data.draw(st.lists(st.sampled_from(choices), min_size=1, max_size=12))
    for (which, _), (status, answer) in zip(batch, ask(served, [r for _, r in batch]), strict=True):
        if which is None:
            assert 400 <= status < 500
            assert set(answer["error"]) == {"kind", "field", "message"}
        else:
            assert (status, told(answer)) == (200, alone[which])
