"""SHA-256 of tensors, of JSON and of files, the same on every machine. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from eideticnet.files import open_regular


def tensor_hash(tensor: Any) -> str:
    """Over type, shape and little-endian bytes of a ``torch.Tensor``: a reshaped or cast one differs."""
    array = tensor.detach().cpu().contiguous().numpy()
    digest = hashlib.sha256(f"{array.dtype.newbyteorder('<')}{array.shape}".encode())
    digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def json_hash(value: Any) -> str:
    """Over the value's canonical JSON: keys sorted, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Over a file's bytes; ``OSError`` if it can't be read or is no regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
