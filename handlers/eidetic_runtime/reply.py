"""What goes between a server and the model: a request as it came, and the reply to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Headers = dict[str, Any]
Row = tuple[str, Headers, dict[str, Any]]
"""A request: its id, its headers with a dict for each part of a form, and its fields by name."""

JSON_HEADERS: Mapping[str, str] = {"content-type": "application/json"}


class Reply(NamedTuple):
    """One response."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = JSON_HEADERS
