"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from eideticnet.export.files import read_regular


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with read_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
