"""What the headers of a request say: how its parts are encoded, which options it has, and who asks.

Read once for all requests that share them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eidetic_runtime.packed import FIELD as PACKED
from eidetic_runtime.packed import coding

REQUEST_ID, TRACE, SHADOW = "x-request-id", "traceparent", "eidetic-shadow"
ECHO = "eidetic-request-id"
OPTION = "eidetic-"
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
# What comes back in our headers and logs is what could not break either.
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclass(slots=True)
class Sender:
    """``kinds`` are the media types of parts by name, and ``kind`` that of the body, "" where none is stated
    or the body is a form; ``coding`` says how it is packed, "" if it is not. ``options`` are the headers that
    look like options, as they were sent. ``grpc``: whether a request came by gRPC, of which only the map's
    entries are known, and no header. ``request_id``: what the sender calls the request, "" if nothing.
    ``traceparent``: W3C's, "" if there is none. ``shadow``: a copy sent to compare versions, or the server's
    own probe, neither counted nor recorded."""

    kinds: dict[str, str]
    kind: str
    coding: str
    options: dict[str, str]
    grpc: bool
    request_id: str
    traceparent: str
    shadow: bool

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]


def read_headers(headers: Mapping[str, Any]) -> Sender:
    """Read ``headers``, texts, and for each part of a form a dict by its name.
    Names are read in any case. Of a header that is there twice, spelled differently, the last counts."""
    kinds: dict[str, str] = {}
    sent: dict[str, str] = {}
    options: dict[str, str] = {}
    for name, value in headers.items():
        if type(value) is not str:
            kinds[name] = media_type(value.get("content-type") or "") if type(value) is dict else ""
            continue
        sent[lower := name.lower()] = value
        if lower.startswith(OPTION) and lower != SHADOW:
            options[name] = value
    kind, request_id, trace = sent.get("content-type", ""), sent.get(REQUEST_ID, ""), sent.get(TRACE, "")
    return Sender(
        kinds,
        "" if kind.lower().startswith(_FORMS) else media_type(kind),
        coding(packed) if (packed := sent.get(PACKED)) else "",
        options,
        not sent,
        request_id if _ID.fullmatch(request_id) else "",
        trace if _TRACE.fullmatch(trace) else "",
        sent.get(SHADOW) == "1",
    )


def media_type(stated: str) -> str:
    """The media type alone, in lower case, without its parameters."""
    return stated.partition(";")[0].strip().lower()
