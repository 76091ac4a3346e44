"""The OpenAPI document says what the running server takes and answers."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from schemathesis import openapi

from eideticnet.serving.openapi.document import document, example
from eideticnet.serving.supervise.described import page
from eideticnet.serving.torchserve.words import ERROR_SCHEMA
from tests.support.pictures import picture

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archives(colours, archive):
    return [colours, archive]


@pytest.fixture(scope="module")
def described(archives):
    return json.loads(json.dumps(document([a.bundle for a in archives], ERROR_SCHEMA)))


def check(described, path, response):
    """The answer is what the document says of its status."""
    content = described["paths"][path]["post"]["responses"][str(response.status_code)]["content"]
    assert response.headers["content-type"] == "application/json"
    resource = Resource.opaque(described)
    schema = {**content["application/json"]["schema"]}
    text = json.dumps(schema).replace('"#/components', '"urn:document#/components')
    registry = Registry().with_resource("urn:document", resource)
    problems = list(Draft202012Validator(json.loads(text), registry=registry).iter_errors(response.json()))
    assert problems == [], response.text
    return response.json()


def test_the_document_is_valid(described):
    openapi.from_dict(described).validate()
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert set(described["paths"]) == {"/predictions/colours", "/predictions/digits-onnx"}


def test_every_example_is_answered_as_described(described, http):
    sent = 0
    for path, item in described["paths"].items():
        content = item["post"]["requestBody"]["content"]
        for kind in ("application/json", "multipart/form-data"):
            for name, value in content[kind]["examples"].items():
                form = {"data": value["value"]} if kind.startswith("multipart") else {"json": value["value"]}
                answer = check(described, path, http.post(path, **form))
                assert ("predictions" in answer) == (name == "several")
                assert ("top" in answer) == (name == "options")
                sent += 1
    assert sent == 8


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_every_content_type_of_the_document_is_taken_and_no_other(described, http, archives):
    for archive in archives:
        path = f"/predictions/{archive.name}"
        x = np.array(example(archive.bundle), np.float32)
        files = {
            "application/octet-stream": x.tobytes(),
            "application/x-npy": npy(x),
            "image/png": picture("red", 0),
            "image/jpeg": picture("red", 0, kind="JPEG"),
        }
        known = described["paths"][path]["post"]["requestBody"]["content"]
        for kind, content in files.items():
            response = http.post(path, content=content, headers={"Content-Type": kind})
            assert response.status_code == (200 if kind in known else 415)
            check(described, path, response)


def test_every_header_of_the_document_is_an_option(described, http):
    for path, item in described["paths"].items():
        x = item["post"]["requestBody"]["content"]["application/json"]["examples"]["one"]["value"]
        parameters = {p["name"]: p["schema"] for p in item["post"]["parameters"]}
        assert len(parameters) == 5
        good = {
            "eidetic-task": parameters["eidetic-task"]["enum"][-1],
            "eidetic-threshold": "0.5",
            "eidetic-top-k": "2",
            "eidetic-probabilities": "true",
            "eidetic-deadline-ms": "4102444800000",
        }
        answer = check(described, path, http.post(path, json=x, headers=good))
        assert answer["pinned"]
        assert answer["top"][0]["label"] == answer["label"]
        for name in parameters:
            response = http.post(path, json=x, headers={name: "-1"})
            assert response.status_code == 400
            assert check(described, path, response)["error"]["field"] == name[8:].replace("-", "_")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"json": {"data": [1]}}, 400),
        ({"json": {"data": [0] * 64, "deadline_ms": 1}}, 408),
        ({"json": {"instances": [[0] * 64] * 6}}, 413),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"json": {"data": [0] * 64}, "headers": {"Authorization": "Bearer wrong"}}, 400),
    ],
)
def test_every_error_is_as_described(described, http, sent, status):
    response = http.post("/predictions/digits-onnx", **sent)
    assert response.status_code == status
    check(described, "/predictions/digits-onnx", response)


def test_none_of_mine_is_as_described(described, http):
    sent = {"data": [8] * 64, "threshold": 1, "top_k": 3, "probabilities": True}
    answer = check(described, "/predictions/digits-onnx", http.post("/predictions/digits-onnx", json=sent))
    assert (answer["unknown"], answer["top"], answer["label_probabilities"]) == (True, [], {})


def test_the_page_serves_the_document(described):
    said = []
    application = page(lambda: described)
    body = b"".join(application({}, lambda *args: said.append(args)))
    assert said[0][0] == "200 OK"
    assert json.loads(body) == described
