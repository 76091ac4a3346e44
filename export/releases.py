"""Which handler code an archive may carry: the releases listed in ``handlers.json``, by SHA-256.

The list only grows, so an archive that was exported once can be deployed, or rolled back to, after
any upgrade. ``eidetic release-handlers`` adds the present files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from eideticnet.export.errors import ArchiveError

RELEASES = Path(__file__).with_name("handlers.json")
HANDLER = "eidetic_handler.py"


def is_handler(name: str) -> bool:
    """Whether a file of this name in an archive would be part of its handler."""
    return name.startswith("eidetic_") and name.endswith(".py") and "/" not in name


def handler_files(folder: Path) -> dict[str, bytes]:
    """The flat Python files in ``folder`` that go into an archive, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("eidetic_*.py"))}


def check_released(files: Mapping[str, bytes], listed: Path = RELEASES) -> None:
    """Raise ``ArchiveError`` unless ``files`` are the handler of one release, whole and unchanged."""
    found = _sums(files)
    releases = [release["files"] for release in json.loads(listed.read_text(encoding="utf-8"))]
    if found in releases:
        return
    known = {(name, digest) for release in releases for name, digest in release.items()}
    strange = sorted(name for name, digest in found.items() if (name, digest) not in known)
    what = f"{', '.join(map(repr, strange))} is" if strange else "its handler files together are"
    raise ArchiveError(
        f"{what} not of a released handler (export/handlers.json); code from elsewhere is never served. "
        "If it was built by other code than this: eidetic export makes it anew. "
        "For a handler of your own: eidetic release-handlers"
    )


def release(folder: Path, version: str, listed: Path = RELEASES) -> bool:
    """Append the handler in ``folder`` to the list, unless it is there; whether it was appended."""
    releases, files = json.loads(listed.read_text(encoding="utf-8")), _sums(handler_files(folder))
    if any(files == known["files"] for known in releases):
        return False
    releases.append({"version": version, "files": files})
    listed.write_text(json.dumps(releases, indent=1) + "\n", encoding="utf-8")
    return True


def _sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256(data).hexdigest() for name, data in sorted(files.items())}
