"""A request read as the handler reads it, up to the point where it would join a batch."""

from __future__ import annotations

from typing import Any

from eidetic_runtime.contract import Contract
from eidetic_runtime.errors import BadRequest
from eidetic_runtime.headers import read_headers
from eidetic_runtime.requests import Request, gather, parse


def read(body: Any, bundle: dict[str, Any], kind: str = "application/json", **row: Any) -> Request:
    """What ``body``, sent over HTTP as ``kind``, asks for; further fields and headers (names with a hyphen)
    by keyword. Raises ``BadRequest``."""
    headers = {name: value for name, value in row.items() if "-" in name}
    fields = {name: value for name, value in row.items() if name not in headers}
    where = "body" if "data" not in fields else "other"
    contract = Contract.of(bundle)
    sent = {**({where: body} if body is not None else {}), **fields}
    told = read_headers({"body": {"content-type": kind}, "Host": "here", **headers})
    request = parse(sent, told, contract)
    _, (checked,) = gather([request], contract)
    if isinstance(checked, BadRequest):
        raise checked
    return checked
