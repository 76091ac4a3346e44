"""Signatures of archives in the format of OpenSSF's model-signing: ARCHIVE.sig, over all bytes of ARCHIVE.

Whom to trust is said in PEM: a public key of an elliptic curve, or certificates of those who certify keys for
signing. A signature holds no name of a file, so an archive may be renamed, and one that was made from a delta
has that of the archive it became. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from eideticnet.errors import MissingExtraError
from eideticnet.export.archive.reader import check_there
from eideticnet.export.errors import ArchiveError
from eideticnet.export.files import scratch_folder
from eideticnet.files import read_regular
from eideticnet.hashing import file_hash

if TYPE_CHECKING:
    from model_signing import signing, verifying

SUFFIX = ".sig"
_LARGEST = 1 << 20
_MOST_SAID = 120
_OTHER_BYTES = "Signature mismatch"
_PART = re.compile(r"-----BEGIN (PUBLIC KEY|CERTIFICATE)-----[A-Za-z0-9+/=\s]+-----END \1-----")
_EXPECTED = "of an elliptic curve (P-256, P-384 or P-521), in PEM"


def signature_of(archive: Path) -> Path:
    """Where the signature of an archive lies: beside it."""
    return archive.with_name(archive.name + SUFFIX)


def read_signature(file: Path) -> bytes | None:
    """The content of a file that may be a signature; None where there is no file."""
    try:
        return read_regular(file, _LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArchiveError(f"{file} can't be read: {error.strerror}") from error


def read_trusted(path: Path) -> tuple[str, ...]:
    """Whom the file ``path`` says to trust, each as PEM: its public keys one by one, and its certificates
    together. Whatever else is in it is left out. ``ArchiveError`` unless it holds one that can be used."""
    try:
        text = read_regular(path, _LARGEST).decode("ascii", "replace")
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror}") from error
    found = [(part[1], f"{part[0]}\n") for part in _PART.finditer(text)]
    certificates = "".join(pem for kind, pem in found if kind == "CERTIFICATE")
    trusted = (*(pem for kind, pem in found if kind != "CERTIFICATE"), *filter(None, [certificates]))
    try:
        for pem in trusted:
            with _verifier(pem):
                pass
    except (ValueError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path}: {_said(error)}; expected a public key {_EXPECTED}") from error
    if not trusted:
        raise ArchiveError(f"{path} holds no public key and no certificate; expected one {_EXPECTED}")
    return trusted


def fingerprint(trusted: str) -> str:
    """By what people tell keys apart: the first digits of the SHA-256 of its PEM file."""
    return sha256(trusted.encode()).hexdigest()[:12]


def check_signature(
    archive: Path, trusted: Sequence[str], name: object = "", *, signature: Path | None = None
) -> str:
    """Who of the ``trusted`` has signed just these bytes. ``ArchiveError``, which calls the archive ``name``,
    where that is nobody, or there is no signature beside it."""
    name, file = name or archive, signature or signature_of(archive)
    whom = f"trusted: {', '.join(map(fingerprint, trusted))}, by the SHA-256 of the PEM"
    data, reasons = read_signature(file), list[str]()
    if data is None:
        raise ArchiveError(
            f"{name} has no signature ({signature_of(Path(str(name))).name} beside it), and one is needed "
            f"({whom}): bring it along, or eidetic sign the archive"
        )
    with TemporaryDirectory(prefix="eidetic-signature-") as folder:
        copy = Path(folder) / "copy"  # what lies there may be replaced by a pipe meanwhile
        copy.write_bytes(data)
        for pem in trusted:
            try:
                with _verifier(pem) as verifier:
                    verifier.verify(archive, copy)
                return pem
            except MissingExtraError:
                raise
            except Exception as error:  # of several libraries, for whatever a file may hold
                reasons.append(_said(error))
    if any(reason.startswith(_OTHER_BYTES) for reason in reasons):
        raise ArchiveError(
            f"{name}: its signature is of other bytes than these, whose SHA-256 begins with "
            f"{file_hash(archive)[:12]}: copy both once more, or eidetic sign the archive"
        )
    raise ArchiveError(
        f"{name}: its signature is of nobody who is trusted ({whom}): {reasons[0]}; eidetic sign the archive "
        "with such a key, or trust this signer"
    )


def sign(archive: Path, private_key: Path, certificate: Path | None = None, password: str = "") -> Path:
    """Sign ``archive`` with a private key in PEM, and write the signature beside it. ``certificate``: that of
    the key, followed by those between it and one that is trusted. Nothing is sent anywhere."""
    check_there(archive)
    with _library(), scratch_folder(signature_of(archive)) as folder:
        made = folder / "made"
        try:
            _signer(private_key, certificate, password).sign(archive, made)
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise ArchiveError(
                f"{private_key} can't sign: {_said(error)}; expected a private key {_EXPECTED}"
            ) from error
        made.replace(signature_of(archive))
    return signature_of(archive)


def _signer(private_key: Path, certificate: Path | None, password: str) -> signing.Config:
    from model_signing import signing

    if certificate is None:
        secret: Any = password.encode() or None  # bytes are what the key is read with
        return signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    return signing.Config().use_certificate_signer(
        private_key=private_key, signing_certificate=certificate, certificate_chain=[certificate]
    )


@contextmanager
def _verifier(pem: str) -> Iterator[verifying.Config]:
    """What checks signatures of whom ``pem`` names."""
    with _library(), TemporaryDirectory(prefix="eidetic-trusted-") as folder:
        from model_signing import verifying

        path = Path(folder) / "trusted.pem"
        path.write_text(pem, encoding="ascii")
        if "CERTIFICATE" in pem:
            yield verifying.Config().use_certificate_verifier(certificate_chain=[path])
        else:
            yield verifying.Config().use_elliptic_key_verifier(public_key=path)


@contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"signatures need {error.name}: pip install 'eideticnet[sign]'") from None


def _said(error: Exception) -> str:
    """An error of the library in a line."""
    said = (
        f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    )
    return (" ".join(said.split()) or type(error).__name__)[:_MOST_SAID].rstrip(". ")
