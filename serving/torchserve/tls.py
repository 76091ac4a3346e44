"""Certificate and private key, checked before TorchServe reads them: its own errors are Java's."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from eideticnet.files import open_regular
from eideticnet.serving.errors import ServingError

_PKCS8 = "-----BEGIN PRIVATE KEY-----"


def check(certificate: Path, key: Path) -> list[str]:
    """Warnings about a pair of PEM files that work; ``ServingError`` where they don't."""
    try:
        for path in (certificate, key):
            open_regular(path).close()
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        text, mode = key.read_text(encoding="ascii"), stat.S_IMODE(key.stat().st_mode)
    except (OSError, ValueError) as error:
        raise ServingError(f"{certificate} and {key} can't be used for TLS: {error}") from None
    if _PKCS8 not in text:
        raise ServingError(
            f"{key} is no unencrypted PKCS #8, which TorchServe needs: openssl pkcs8 -topk8 -nodes -in {key}"
        )
    if mode & 0o004:
        return [f"{key} can be read by every user of this machine: chmod o-r"]
    return []
