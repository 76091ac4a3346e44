"""An archive's bytes, from a folder, an object store or Ray's own memory, held against its SHA-256."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from eideticnet.files import open_regular
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.ray.desired import MEMORY, Source

LARGEST = 4 << 30
"""Bytes that an archive may have; a store that sends more is not heard to the end."""


def fetched(source: Source, memory: Callable[[str], bytes | None]) -> bytes:
    """The archive of ``source``. ``memory`` gives those that lie in Ray's, by their SHA-256.

    ``Unavailable`` where it can't be had now, ``ServingError`` where it is another one or a library lacks."""
    data = _read(source, memory)
    found = sha256(data).hexdigest()
    if found != source.sha256:
        raise ServingError(f"{source.archive} has SHA-256 {found}; expected {source.sha256}")
    return data


def _read(source: Source, memory: Callable[[str], bytes | None]) -> bytes:
    scheme = urlsplit(source.archive).scheme
    if scheme == MEMORY:
        data = memory(source.sha256)
        if data is None:
            raise Unavailable(f"{source.archive} is not in Ray's memory yet; its server puts it there")
        return data
    try:
        if not scheme:
            with open_regular(Path(source.archive)) as file:
                return file.read()
        return _of_a_store(source.archive)
    except ServingError:
        raise
    except ImportError as error:  # fsspec names the package of that scheme
        raise ServingError(f"{source.archive} can't be read: {error}") from None
    except Exception as error:  # stores have errors of their own
        said = getattr(error, "strerror", None) or str(error).splitlines()[0:1] or [type(error).__name__]
        raise Unavailable(
            f"{source.archive} can't be read: {said if isinstance(said, str) else said[0]}"
        ) from None


def _of_a_store(url: str) -> bytes:
    if importlib.util.find_spec("fsspec") is None:
        raise ServingError(f"{url} can't be read: pip install 'eideticnet[ray]'")
    import fsspec

    with fsspec.open(url, "rb") as file:
        data: bytes = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ServingError(f"{url} holds more than {LARGEST >> 30} GB, which no archive has")
    return data
