"""What TorchServe asks of a private key beyond what TLS does."""

from __future__ import annotations

from pathlib import Path

from eideticnet.serving.errors import ServingError
from eideticnet.serving.home import certificate as pair

_PKCS8 = "-----BEGIN PRIVATE KEY-----"


def check(certificate: Path, key: Path) -> list[str]:
    """Warnings about a pair of PEM files that work; ``ServingError`` where they don't."""
    warnings = pair.check(certificate, key)
    try:
        text = key.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ServingError(f"{certificate} and {key} can't be used for TLS: {error}") from None
    if _PKCS8 not in text:
        raise ServingError(
            f"{key} is no unencrypted PKCS #8, which TorchServe needs: openssl pkcs8 -topk8 -nodes -in {key}"
        )
    return warnings
