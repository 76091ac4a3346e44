"""Certificate and private key, checked before a server reads them: its own errors are no help."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from eideticnet.files import open_regular
from eideticnet.serving.errors import ServingError


def check(certificate: Path, key: Path) -> list[str]:
    """Warnings about a pair of PEM files that work; ``ServingError`` where they don't."""
    try:
        for path in (certificate, key):
            open_regular(path).close()
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        mode = stat.S_IMODE(key.stat().st_mode)
    except (OSError, ValueError) as error:
        raise ServingError(f"{certificate} and {key} can't be used for TLS: {error}") from None
    return [f"{key} can be read by every user of this machine: chmod o-r"] if mode & 0o004 else []
