"""What a server keeps in its cluster: what is to be held, and archives for nodes that share no folder.

It lies in Ray's own key-value store, where Serve has its state too: it outlives every node but the head, and
needs no process.
"""

from __future__ import annotations

import json

from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_exists,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)

from eideticnet.serving.errors import ServingError
from eideticnet.serving.ray.desired import Desired

LARGEST = 400 << 20
"""Bytes of an archive; Ray's own messages may have 500 MiB."""
_ARCHIVE = "archive:"
_DESIRED = "desired"


def desired(server: str) -> Desired | None:
    """What the replicas of ``server`` are to hold; None where it never said."""
    found = _internal_kv_get(_DESIRED, namespace=server)
    return None if found is None else Desired.read(json.loads(found))


def put_desired(server: str, desired: Desired) -> None:
    """From now on every replica that starts holds this."""
    _internal_kv_put(_DESIRED, desired.model_dump_json(), namespace=server)


def archive(server: str, sha256: str) -> bytes | None:
    """The archive of that SHA-256; None where it is not there."""
    found: bytes | None = _internal_kv_get(_ARCHIVE + sha256, namespace=server)
    return found


def put_archive(server: str, sha256: str, data: bytes) -> None:
    """``ServingError`` where it is too large."""
    if len(data) > LARGEST:
        raise ServingError(
            f"an archive of {len(data) >> 20} MB is too large for Ray's memory ({LARGEST >> 20} MB): serve "
            "it from a folder or an object store that all nodes can read (serve.yaml)"
        )
    if not _internal_kv_exists(_ARCHIVE + sha256, namespace=server):
        _internal_kv_put(_ARCHIVE + sha256, data, namespace=server)


def keep_archives(server: str, needed: set[str]) -> None:
    """Let the others go."""
    for key in _internal_kv_list(_ARCHIVE, namespace=server):
        if key.decode().removeprefix(_ARCHIVE) not in needed:
            _internal_kv_del(key, namespace=server)


def forget(server: str) -> None:
    """Let all of it go."""
    _internal_kv_del("", del_by_prefix=True, namespace=server)
