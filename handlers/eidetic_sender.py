"""Who asks: what a request's headers say about itself and not about its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REQUEST_ID, TRACE, SHADOW = "x-request-id", "traceparent", "eidetic-shadow"
ECHO = "eidetic-request-id"
# What comes back in our headers and logs is what could not break either.
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclass(slots=True)
class Sender:
    """``request_id``: what the sender calls the request, "" if nothing; ``server_id``: what TorchServe calls
    it, and sends back as x-request-id whatever a handler sets. ``traceparent``: W3C's, "" if there is none.
    ``shadow``: a copy sent to compare versions, which is not recorded."""

    request_id: str
    server_id: str
    traceparent: str
    shadow: bool

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]


def sender(headers: Mapping[str, Any], server_id: str | None) -> Sender:
    """The sender of the request with these ``headers``, whose names are read in any case. gRPC has none."""
    found = {REQUEST_ID: "", TRACE: "", SHADOW: ""}
    for name, value in headers.items():
        lower = name.lower()
        if lower in found and isinstance(value, str):  # the name of a part comes here too, with a dict
            found[lower] = value
    request_id = found[REQUEST_ID]
    if not _ID.fullmatch(request_id):
        request_id = ""
    trace = found[TRACE] if _TRACE.fullmatch(found[TRACE]) else ""
    return Sender(request_id, server_id or "", trace, found[SHADOW] == "1")
