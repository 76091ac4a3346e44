"""SHA-256 of tensors and of JSON, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Tensor


def tensor_hash(tensor: Tensor) -> str:
    """Over type, shape and little-endian bytes, so a reshaped or cast tensor differs."""
    array = tensor.detach().cpu().contiguous().numpy()
    digest = hashlib.sha256(f"{array.dtype.newbyteorder('<')}{array.shape}".encode())
    digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def json_hash(value: Any) -> str:
    """Over the value's canonical JSON: keys sorted, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
