"""Which handler code an archive may carry: the releases listed in ``handlers.json``, by SHA-256.

A handler is the engine's entry, which is flat files, and since schema 1.5.0 the folder of the runtime beside
it. Those released before are flat files alone.

The list only grows, so an archive that was exported once can be deployed, or rolled back to, after
any upgrade. ``eidetic release-handlers`` adds the present files. One that turned out to have a hole is
revoked, with the reason: archives with it are only read to be replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import eidetic_runtime
from eideticnet.contract.bundle import SCHEMA
from eideticnet.export.errors import ArchiveError
from eideticnet.export.files import whole_file

RELEASES = Path(__file__).with_name("handlers.json")
HANDLERS = Path(__file__).parents[2] / "handlers"
"""In a clone, and in an installation."""
HANDLER, RUNTIME = "eidetic_handler.py", "eidetic_runtime"
_FIRST_READS = 5
"""The minor version of the schema that releases read which don't say."""
_NAME = re.compile(rf"eidetic_[^/]*\.py|{RUNTIME}/[^/]*\.py")


def is_handler(name: str) -> bool:
    """Whether a file of this name in an archive would be part of its handler."""
    return _NAME.fullmatch(name) is not None


def handler_files(folder: Path) -> dict[str, bytes]:
    """What goes into an archive by name: the flat Python files in ``folder``, and those of the runtime, which
    lies in it in a clone, and where it is imported from in an installation."""
    runtime = folder / RUNTIME if (folder / RUNTIME).is_dir() else Path(eidetic_runtime.__path__[0])
    flat = {path.name: path for path in folder.glob("eidetic_*.py")}
    inner = {f"{RUNTIME}/{path.name}": path for path in runtime.glob("*.py")}
    return {name: path.read_bytes() for name, path in sorted((flat | inner).items())}


def check_released(
    files: Mapping[str, bytes], listed: Path = RELEASES, *, revoked: bool = False, minor: int = 0
) -> None:
    """Raise ``ArchiveError`` unless ``files`` are the handler of one release, whole and unchanged, that reads
    bundles of this ``minor`` version of the schema, and none that was revoked, unless ``revoked`` will do."""
    found, releases = _sums(files), _read(listed)
    for release in releases:
        if release["files"] == found:
            if "revoked" in release and not revoked:
                why = f"its handler was revoked: {release['revoked']}"
                raise ArchiveError(f"{why}; run eidetic export again, with today's")
            if (reads := release.get("reads", _FIRST_READS)) < minor:
                raise ArchiveError(
                    f"its handler reads bundles of schema 1.{reads}, and this one needs 1.{minor}: run "
                    "eidetic export again, with today's"
                )
            return
    known = {(name, digest) for release in releases for name, digest in release["files"].items()}
    strange = sorted(name for name, digest in found.items() if (name, digest) not in known)
    what = f"{', '.join(map(repr, strange))} is" if strange else "its handler files together are"
    raise ArchiveError(
        f"{what} not of a released handler (export/archive/handlers.json), and other code is never served: "
        "run eidetic export again, or, for a handler of your own, eidetic release-handlers first"
    )


def release(folder: Path, version: str, listed: Path = RELEASES) -> bool:
    """Append the handler in ``folder`` to the list, unless it is there; whether it was appended.
    ``ArchiveError`` where it was revoked."""
    releases, files = _read(listed), handler_files(folder)
    if any(_sums(files) == known["files"] for known in releases):
        check_released(files, listed)
        return False
    reads = int(SCHEMA.split(".")[1])
    _write([*releases, {"version": version, "reads": reads, "files": _sums(files)}], listed)
    return True


def revoke(digest: str, reason: str, listed: Path = RELEASES) -> int:
    """Revoke every release that holds a file of this SHA-256, in hexadecimal; how many there are.
    ``ArchiveError`` if there is none, or no ``reason`` that can be told in a line."""
    if not reason.strip() or not reason.isprintable():
        raise ArchiveError("a reason is needed, in one line: every archive that is refused is told it")
    releases = _read(listed)
    found = [release for release in releases if digest.lower() in release["files"].values()]
    if not found:
        raise ArchiveError(
            f"no released handler holds a file of SHA-256 {digest[:64]!r}; {listed} lists them"
        )
    for release in found:
        release["revoked"] = reason
    _write(releases, listed)
    return len(found)


def _read(listed: Path) -> list[dict[str, Any]]:
    return list(json.loads(listed.read_text(encoding="utf-8")))


def _write(releases: list[dict[str, Any]], listed: Path) -> None:
    with whole_file(listed) as file:
        file.write((json.dumps(releases, indent=1, ensure_ascii=False) + "\n").encode())


def _sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256(data).hexdigest() for name, data in sorted(files.items())}
