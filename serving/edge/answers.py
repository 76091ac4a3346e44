"""What the edge answers itself: our error form over HTTP, a status and a message over gRPC."""

from __future__ import annotations

import json
from typing import Any

from eideticnet.serving.errors import MOST_BYTES

MOST_FORM_BYTES = 1 << 20
"""Of a multipart form, which costs an engine's front end seconds for each megabyte where it is made to."""

_PROBLEMS = {
    "400": (400, "bad_request", "the request can't be read, or says one thing twice"),
    "401": (401, "unauthorized", "no key, or a wrong one; expected Authorization: Bearer KEY"),
    "404": (404, "not_found", "nothing is at this path here"),
    "405": (405, "method_not_allowed", "no method for this port"),
    "408": (
        408,
        "expired",
        "the request did not come in time: 10 seconds for its head, and no pause so long",
    ),
    "413": (413, "too_large", f"has too many bytes; expected {MOST_BYTES} at most"),
    "413-form": (
        413,
        "too_large",
        f"a form of too many bytes; expected {MOST_FORM_BYTES} at most, or no form",
    ),
    "415": (415, "unsupported_media_type", "a urlencoded form is not read here; expected JSON or multipart"),
    "429": (429, "too_many_requests", "too many wrong keys from your address; wait ten seconds"),
    "500": (500, "internal", "the edge failed on the request"),
    "503": (503, "unavailable", "no answer from the engine, which may be starting; ask again"),
}
"""By name: status, kind and message. The names of HAProxy's own errors are their statuses."""
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    500: "Internal Server Error",
}
_OWN = {400: "400", 403: "400", 408: "408", 413: "413", 500: "500", 502: "503", 503: "503", 504: "503"}
"""HAProxy's errors, and what is answered for each: an engine that says nothing, or breaks off, is a 503."""
_GRPC = {"400": 3, "401": 16, "404": 12, "408": 4, "413": 8, "429": 8, "500": 13, "503": 14}

KINDS = sorted({kind for _, kind, _ in _PROBLEMS.values()})


def problem(name: str) -> dict[str, Any]:
    """The error object of a problem."""
    _, kind, message = _PROBLEMS[name]
    return {"error": {"kind": kind, "field": "", "message": message}}


def files() -> dict[str, str]:
    """By name, the files that the configuration mentions."""
    found = {f"{name}.json": json.dumps(problem(name)) + "\n" for name in _PROBLEMS}
    for own, name in _OWN.items():
        status, body = _PROBLEMS[name][0], found[f"{name}.json"]
        head = f"HTTP/1.1 {status} {_PHRASES.get(status, 'Service Unavailable')}\r\n"
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        found[f"{own}.http"] = f"{head}{kind}\r\n{body}"
    for name in _GRPC:
        found[f"{name}.grpc"] = f"HTTP/1.1 200 OK\r\n{_trailers(name)}\r\n"
    return found


def errorfiles(kind: str) -> list[str]:
    """The lines of a section that answers HAProxy's own errors over "http" or "grpc"."""
    return [f"errorfile {own} {name if kind == 'grpc' else own}.{kind}" for own, name in _OWN.items()]


def refused(name: str, kind: str = "http") -> str:
    """The action that answers with a problem over "http" or "grpc"."""
    if kind == "grpc":
        return f"http-request return status 200 errorfile {name}.grpc"
    extra = {"401": " hdr WWW-Authenticate Bearer", "429": " hdr Retry-After 10"}.get(name, "")
    status = f"status {_PROBLEMS[name][0]} content-type application/json"
    return f"http-request return {status} file {name}.json{extra}"


def _trailers(name: str) -> str:
    told = {
        "content-type": "application/grpc",
        "grpc-status": _GRPC[name],
        "grpc-message": _PROBLEMS[name][2],
    }
    return "".join(f"{header}: {value}\r\n" for header, value in told.items())
