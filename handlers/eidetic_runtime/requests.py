"""From what a server hands over to an array and options, or to an error that names the field.

A request is a dict of fields: ``body`` (the body of an HTTP request) or ``data`` (a part of a form, or an
entry of gRPC's map) is the payload; the others are options. Headers stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eidetic_runtime import numbers, open_inference, options
from eidetic_runtime.contract import Contract
from eidetic_runtime.errors import BadRequest, shown
from eidetic_runtime.headers import Sender, media_type
from eidetic_runtime.packed import FIELD as PACKED
from eidetic_runtime.packed import unpacked
from eidetic_runtime.pictures import JPEG, PNG, from_image

try:
    import orjson
except ImportError:  # the standard parser is slower but understands the same requests
    orjson = None  # type: ignore[assignment]

JSON, RAW, NPY, IMAGE = "application/json", "application/octet-stream", "application/x-npy", "image"
_IMAGES = ("image/png", "image/jpeg")
_BYTES = (RAW, NPY, *_IMAGES)
_KEYS = ("data", "instances", *options.NAMES)
_TENSOR = ("name", "shape", "datatype", "data")
_BESIDE = ("content_type", "content-type", "model_name")
"""Fields that are neither payload nor option; ``model_name`` is the server's own."""


@dataclass(slots=True)
class Request:
    """``x`` (n, *shape), not yet known to be in range; ``field`` is where it stood; ``task`` is the index of
    the pinned task or -1; ``many`` tells whether the answer is a list; ``reply_to`` is the request's id in
    the Open Inference Protocol, None elsewhere. The others are as in ``RequestOptions``."""

    x: npt.NDArray[Any]
    task: int
    threshold: float
    many: bool
    field: str = "data"
    top_k: int = 0
    probabilities: bool = False
    deadline_ms: float | None = None
    reply_to: str | None = None


def parse(row: Mapping[str, Any], sender: Sender, contract: Contract) -> Request:
    """Read the fields of one request of any kind, whose headers say ``sender``. Raises ``BadRequest``."""
    field, body = _payload(row, sender)
    if sender.coding:
        body = unpacked(body, sender.coding)
    given = options.from_headers(sender.options) if sender.options else {}
    if len(row) > 1:
        given = options.merge(given, _options_beside(row, field))
    kind = _kind(field, body, row, sender, contract)
    if kind == JSON:
        return _from_json(body, given, sender, contract)
    asked = options.read(given, contract)
    if kind == RAW:
        x = numbers.from_raw(body, field, contract)
        many = len(x) > 1
    elif kind == NPY:
        x, many = numbers.from_npy(body, field, contract)
    else:
        x, many = from_image(body, field, contract), False
    return _request(x, asked, many, field)


def _payload(row: Mapping[str, Any], sender: Sender) -> tuple[str, Any]:
    if "body" in row and "data" in row:
        raise BadRequest("data", "is there beside a body; give one of them")
    field = "data" if "data" in row else "body"
    body = row.get(field, b"")
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    if field not in row and (found := [name for name in row if name not in (*options.NAMES, *_BESIDE)]):
        beside = f"expected a part or entry called data, and beside it at most {', '.join(options.NAMES)}"
        raise BadRequest("data", f"is missing; {beside}; found {', '.join(map(repr, found))[:200]}")
    if not body and sender.coding:
        what = "of a body that is empty, or a form, which is not unpacked; expected a body of another type"
        raise BadRequest(PACKED, f"is {sender.coding[:100]!r}, {what}", "unsupported_media_type")
    if not body and not isinstance(body, (dict, list)) and _content_type(field, row, sender) not in _BYTES:
        raise BadRequest(field, "is empty; expected a JSON object, sent as application/json")
    return field, body


def _options_beside(row: Mapping[str, Any], payload: str) -> dict[str, Any]:
    given = {}
    for name, value in row.items():
        if name in options.NAMES:
            given[name] = options.from_text(name, value)
        elif name != payload and name not in _BESIDE:
            expected = f"expected {payload}, {', '.join(options.NAMES)}, or JSON sent as application/json"
            raise BadRequest(name or "body", f"unexpected field; {expected}")
    return given


def _kind(field: str, body: Any, row: Mapping[str, Any], sender: Sender, contract: Contract) -> str:
    """How ``body`` is to be read, by its content type. Where there is none, or a form's part has one that
    says nothing, the first bytes tell; what they do not tell is JSON."""
    if isinstance(body, (dict, list)):
        return JSON  # a server that was not told to leave bodies alone
    stated = _content_type(field, row, sender)
    if not stated or (stated == RAW and field == "data" and "content_type" not in row):
        stated = _by_magic(body, contract) or stated or JSON
    if stated in (JSON, RAW, NPY):
        return stated
    if contract.image and stated in _IMAGES:
        return IMAGE
    known = ", ".join((JSON, RAW, NPY, *(_IMAGES if contract.image else ())))
    raise BadRequest(
        "content-type", f"is {stated[:100]!r}; expected one of {known}", "unsupported_media_type"
    )


def _content_type(field: str, row: Mapping[str, Any], sender: Sender) -> str:
    """The media type of the payload: of an entry beside it, of its part, or of the whole request."""
    stated: Any = row.get("content_type", row.get("content-type")) if len(row) > 1 else None
    if stated is None:
        return sender.kinds.get(field) or sender.kind
    if not isinstance(stated, str):
        stated = bytes(stated).decode("utf-8", "replace")
    return media_type(stated) if stated else sender.kind


def _by_magic(body: Any, contract: Contract) -> str:
    if body[:6] == numbers.NPY:
        return NPY
    if contract.image and (body[:8] == PNG or body[:3] == JPEG):
        return _IMAGES[0]
    return ""


def _from_json(body: Any, given: dict[str, Any], sender: Sender, contract: Contract) -> Request:
    fields = _json_object(body)
    if "inputs" in fields:
        if isinstance(body, (bytes, bytearray)):
            _once(body, (*fields, *_TENSOR, *options.NAMES))
        x, asked, reply_to = open_inference.read(fields, given, sender.grpc, contract)
        return _request(x, asked, True, "x", reply_to)
    for key in fields:
        if key not in _KEYS:
            raise BadRequest(key, f"unexpected field; expected {', '.join(_KEYS)}")
    if ("data" in fields) == ("instances" in fields):
        raise BadRequest("data", 'give either "data" (one instance) or "instances" (a list of them)')
    if isinstance(body, (bytes, bytearray)) and body.count(b'"') > 2:  # more than one name
        _once(body, fields)
    if given or len(fields) > 1:
        beside = {name: fields[name] for name in options.NAMES if fields.get(name) is not None}
        given = options.merge(given, beside)
    asked = options.read(given, contract)
    # true, false and null are the only words of JSON with these letters, so most requests have none
    strict = isinstance(body, dict) or b"u" in body or b"f" in body
    if "data" in fields:
        return _request(numbers.one(fields["data"], contract, strict), asked, False, "data")
    return _request(numbers.several(fields["instances"], contract, strict), asked, True, "instances")


def _request(
    x: npt.NDArray[Any], o: options.RequestOptions, many: bool, field: str, reply_to: str | None = None
) -> Request:
    return Request(x, o.task, o.threshold, many, field, o.top_k, o.probabilities, o.deadline_ms, reply_to)


def _json_object(body: Any) -> dict[str, Any]:
    if isinstance(body, (bytes, bytearray)):
        body = _load_json(body)
    if not isinstance(body, dict):
        raise BadRequest("body", f"holds {shown(body)}; expected a JSON object")
    return body


def _once(text: bytes | bytearray, names: Iterable[str]) -> None:
    """Refuse JSON that holds one of ``names`` twice, differently: other readers may take the first.

    Only if there may be one it is read again, without what lies between the brackets if that is numbers."""
    start, end = text.find(b"["), text.rfind(b"]") + 1
    if text.find(b'"', start, end) < 0 <= start < end:
        text = text[:start] + b"0" + text[end:]
    if b"\\u" in text or any(text.count(b'"%s"' % name.encode()) > 1 for name in names):
        try:
            json.loads(text, object_pairs_hook=_agreeing)
        except RecursionError:
            raise BadRequest("body", "is nested too deeply; expected a JSON object") from None


def _agreeing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            options.merge(found, {name: value})
    return found


def _load_json(text: bytes | bytearray) -> Any:
    try:
        return orjson.loads(text) if orjson else json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:  # slower, but it knows NaN and Infinity, and so names the number and not a column
        return json.loads(text.decode("utf-8-sig"))  # as text, because of bytes it would take UTF-16 as well
    except json.JSONDecodeError as error:
        problem = f"is not JSON: {error}"
    except UnicodeDecodeError as error:
        problem = f"is not JSON: byte {error.start} is not UTF-8"
    except RecursionError:
        problem = "is not JSON that can be read: it is nested too deeply"
    except ValueError:  # Python reads no longer ones
        problem = "is not JSON that can be read: it holds a number of thousands of digits"
    raise BadRequest("body", f"{problem}; expected a JSON object")


def gather(
    parsed: Sequence[Request | BadRequest], contract: Contract
) -> tuple[npt.NDArray[Any] | None, list[Request | BadRequest]]:
    """The rows of all requests as one array (N, *shape), None if there are none, and ``parsed`` with an error
    in the place of each request that holds a number out of range."""
    checked = list(parsed)
    xs = [p.x for p in checked if isinstance(p, Request)]
    if not xs:
        return None, checked
    x = xs[0] if len(xs) == 1 and xs[0].flags.carray else np.concatenate(xs)
    if contract.fits(x):
        return x, checked
    checked = [_in_range(p, contract) if isinstance(p, Request) else p for p in checked]
    xs = [p.x for p in checked if isinstance(p, Request)]
    return (np.concatenate(xs) if xs else None), checked


def _in_range(request: Request, contract: Contract) -> Request | BadRequest:
    bad = ~((request.x >= contract.low) & (request.x <= contract.high))
    if not bad.any():
        return request
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    place = "".join(f"[{i}]" for i in (index if request.many else index[1:]))
    expected = f"expected a finite number from {contract.low} to {contract.high}"
    message = f"is {request.x[index]}; {expected}"
    return BadRequest(f"{request.field}{place}", message, reply_to=request.reply_to)
