"""Whether an answer to an odd request is one that the OpenAPI document describes, or a known one of
TorchServe's front end, which answers some shapes of form by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import httpx
from jsonschema import Draft202012Validator

from tests.support.odd_requests import FORM, Request

STATUSES = {200, 400, 404, 408, 413, 415}


class Shape(NamedTuple):
    """What the front end answers to a kind of request: the answer's status and message, and the request's
    body and content type. Java leaves out what it would say of an exception that it throws often."""

    status: int
    message: str
    sent: Callable[[str, bytes], bool]


def _urlencoded(kind: str) -> bool:
    return kind.lower() == FORM


def _nameless(kind: str, body: bytes) -> bool:
    names = [pair.partition(b"=")[0].replace(b"+", b" ") for pair in body.split(b"&")]
    return _urlencoded(kind) and any(not unquote_to_bytes(name).strip() for name in names)


def _part(pattern: bytes) -> Callable[[str, bytes], bool]:
    """A multipart form with a part whose headers, up to the empty line, match."""
    whole = re.compile(rb"--[^\r]+\r\n(?:[^\r]+\r\n)*?" + pattern, re.I)
    return lambda kind, body: kind.startswith("multipart/") and bool(whole.search(body))


FRONT_END = {
    "an escape that is none": Shape(
        500,
        r"Bad string: |Invalid hex byte at ",
        lambda kind, body: _urlencoded(kind) and bool(re.search(rb"%(?![0-9a-f]{2})", body, re.I)),
    ),
    "a field without a name": Shape(500, r".*IllegalArgumentException: empty name", _nameless),
    "a part with an empty name": Shape(
        500, r".*IllegalArgumentException: empty name", _part(rb'Content-Disposition: form-data; name=""')
    ),
    "a part without a name": Shape(
        500,
        r".*NullPointerException",
        _part(rb"Content-Disposition: form-data(?:; filename=\"f\")?\r\n"),
    ),
    "a transfer encoding": Shape(
        500, r"TransferEncoding Unknown: ", _part(rb"Content-Transfer-Encoding: (?:base64|\?)\r\n")
    ),
    "a part longer than it says": Shape(
        500, r".*IOException: Out of size: \d+ > 3", _part(rb"Content-Length: 3\r\n")
    ),
    "a charset that is none, of a part": Shape(
        500, r".*UnsupportedCharsetException: none", _part(rb"Content-Type: text/plain; charset=none\r\n")
    ),
    "a charset that is none, of the form": Shape(
        403, "none", lambda kind, _: bool(re.fullmatch("multipart/.*; charset=none", kind))
    ),
    "an empty boundary": Shape(
        500,
        "Index 0 out of bounds for length 0|$",
        lambda kind, _: bool(re.fullmatch("multipart/.*; boundary=", kind)),
    ),
}


class Verdicts:
    """Judges the answers of the models that ``document`` describes."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.validator = cache(self._validator)

    def _validator(self, schema: str) -> Draft202012Validator:
        return Draft202012Validator({**json.loads(schema), "components": self.document["components"]})

    def described(self, model: str, status: int, text: str) -> bool:
        """Whether ``text`` is what the document says of ``status``. Unlike the document, which knows the
        front end too, an error has to be the handler's, with kind, field and message."""
        answers = self.document["paths"][f"/predictions/{model}"]["post"]["responses"]
        ours = answers["200"]["content"]["application/json"]["schema"]
        schema = ours if status == 200 else {"$ref": "#/components/schemas/Error"}
        if status not in STATUSES or str(status) not in answers:
            return False
        found = json.loads(text)
        internal = status != 200 and found.get("error", {}).get("kind") == "internal"
        return not internal and bool(self.validator(json.dumps(schema)).is_valid(found))

    def of(self, request: Request, answer: httpx.Response) -> str:
        """The status, or the shape that the front end answers by itself. Any other answer is an error."""
        status, kind = answer.status_code, request.kind.decode("latin-1")
        assert answer.headers["content-type"] == "application/json", (request, answer.headers)
        assert " at 0x" not in answer.text, (request, answer.text)
        if self.described(request.model, status, answer.text):
            return str(status)
        found = answer.json()
        assert {"code", "type"} <= found.keys() <= {"code", "type", "message"}, (request, status, answer.text)
        assert found["code"] == status, (request, status, answer.text)
        for name, shape in FRONT_END.items():
            told = shape.status == status and re.match(shape.message, found.get("message", ""))
            if told and shape.sent(kind, request.body):
                return f"{status}, {name}"
        raise AssertionError(f"a new shape: {status} {answer.text} to {request}")
