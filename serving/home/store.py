"""The archives of a home: copied there as the very bytes that were checked, named by what they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from eideticnet.export.archive.contents import limit
from eideticnet.export.archive.members import check_members
from eideticnet.export.archive.reader import Archive, check_there, read_archive, read_files
from eideticnet.export.archive.signature import SUFFIX, check_signature, read_signature, signature_of
from eideticnet.export.errors import ArchiveError
from eideticnet.files import open_regular
from eideticnet.hashing import file_hash
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.files import write_whole
from eideticnet.serving.home.state import CLOSED, State, Version


@dataclass(frozen=True)
class Stored:
    """An archive in the store, as it was read there: ``files`` are its members by name."""

    archive: Archive
    version: Version
    files: dict[str, bytes]


def admit(source: Path, store: Path, *, allow_torch: bool, trusted: Sequence[str] = ()) -> Stored:
    """Copy ``source`` and its signature into ``store`` and check the copies, so that nothing can come in
    between. ``trusted``: those of whom one must have signed it, see ``export/archive/signature.py``.

    ``ArchiveError`` says what is wrong with the archive; a copy that is refused does not stay.
    """
    try:
        with open_regular(source) as file:
            check_members(file, limit)  # before all of it is read
            file.seek(0)
            data = file.read()
    except OSError as error:
        check_there(source)  # which says best what is missing
        raise ArchiveError(f"{source} can't be read: {error.strerror}") from error
    except ArchiveError as error:
        text = str(error)
        raise ArchiveError(text if text.startswith(str(source)) else f"{source}: {text}") from None
    try:
        version, archive, files = _checked(source, data, store, allow_torch, trusted)
    except OSError as error:
        raise ServingError(f"the store {store} can't take {source.name}: {error}") from error
    target = store / version.file
    return Stored(Archive(target, archive.bundle, archive.probes), version, files)


def _checked(
    source: Path, data: bytes, store: Path, allow_torch: bool, trusted: Sequence[str]
) -> tuple[Version, Archive, dict[str, bytes]]:
    """Write ``data`` into the store, if the written file is sound."""
    with tempfile.TemporaryDirectory(prefix=".checked-", dir=store) as folder:
        copy = Path(folder) / source.name
        write_whole(copy, data)
        if (signature := read_signature(signature_of(source))) is not None:
            write_whole(signature_of(copy), signature)
        if trusted:
            check_signature(copy, trusted, source)
        try:
            archive, files = read_files(copy)
        except Exception as error:
            raise type(error)(str(error).replace(str(copy), str(source))) from None
        _check_format(archive, str(source), allow_torch)
        digest = sha256(data).hexdigest()
        version = Version(
            version=archive.version,
            file=f"{archive.name}-{archive.version}-{digest[:12]}.mar",
            sha256=digest,
        )
        if signature is not None:
            signature_of(copy).replace(signature_of(store / version.file))
        copy.replace(store / version.file)
        return version, archive, files


def remove_unneeded(store: Path, state: State) -> None:
    """Remove what no version needs: archives that were refused, or replaced twice."""
    needed = state.files()
    for path in store.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.removesuffix(SUFFIX) not in needed and not path.stem.endswith(CLOSED):
            path.unlink(missing_ok=True)


def opened(
    name: str,
    version: Version,
    store: Path,
    *,
    allow_torch: bool,
    revoked: bool = True,
    trusted: Sequence[str] = (),
) -> Archive:
    """The stored archive of ``version`` of the model ``name``, if its bytes are still those that were
    admitted. Its format and its signature are judged again: the server may now be started to trust fewer
    publishers. What is to run from now on may not have a handler that was ``revoked`` since."""
    path = store / version.file
    try:
        found = file_hash(path)
    except OSError as error:
        raise Unavailable(f"the archive of version {version.version} can't be read: {error}") from error
    if found != version.sha256:
        raise Unavailable(f"{path} was changed after it was admitted: its SHA-256 is {found}")
    if trusted:
        check_signature(path, trusted)
    archive = read_archive(path, revoked=revoked)
    if (archive.name, archive.version) != (name, version.version):
        raise Unavailable(
            f"the state names {path} {name} {version.version}, and it holds {archive.name} "
            f"{archive.version}: put the state back as it was"
        )
    _check_format(archive, str(path), allow_torch)
    return archive


def _check_format(archive: Archive, name: str, allow_torch: bool) -> None:
    if archive.bundle.format != "onnx" and not allow_torch:
        raise ServingError(
            f"{name} holds {archive.bundle.format}, which can run any code when it is loaded; "
            "ONNX archives hold none. If you trust who made it: eidetic serve --allow-torch"
        )
