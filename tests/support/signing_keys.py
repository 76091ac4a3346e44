"""Keys and certificates of publishers, as openssl makes them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from eideticnet.export.archive.signature import sign


def openssl(folder: Path, *command: object) -> None:
    subprocess.run(["openssl", *map(str, command)], cwd=folder, check=True, capture_output=True)


def make_keys(folder: Path) -> Path:
    """In ``folder`` the PEM files ours.key, ours.pub, theirs.key and theirs.pub."""
    for name, curve in (("ours", "prime256v1"), ("theirs", "secp384r1")):
        openssl(folder, "ecparam", "-name", curve, "-genkey", "-noout", "-out", f"{name}.key")
        openssl(folder, "ec", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pub")
    return folder


def copies(archives: Mapping[str, Path], folder: Path) -> Callable[..., Path]:
    """``copies(...)("1")``: a copy of that archive in ``folder``, signed with the private key ``signer``."""

    def copy(name: str, signer: Path | None = None) -> Path:
        path = folder / f"{name}.mar"
        path.write_bytes(archives[name].read_bytes())
        if signer is not None:
            sign(path, signer)
        return path

    return copy
