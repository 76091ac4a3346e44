"""From a run's folder to an archive in a model store."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from eideticnet import CheckpointError, EideticError, EideticNetwork
from eideticnet.contract.bundle import Bundle
from eideticnet.export.archive.contents import BUNDLE
from eideticnet.export.archive.contract import read_bundle
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.releases import HANDLERS
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import Choice, check_names, write_bundle
from eideticnet.export.errors import ArchiveError, ExportError
from eideticnet.export.files import scratch_folder, whole_folder
from eideticnet.export.proof.retention import changed_contract
from eideticnet.export.triton import version_number, write_repository


def build(
    run: Path,
    store: Path,
    *,
    name: str = "",
    model_version: str = "",
    keep: Path | None = None,
    serving: Mapping[str, Any] | None = None,
    replace: bool = False,
    repack: bool = False,
    triton: bool = False,
    **options: Any,
) -> Path:
    """Write STORE/NAME-VERSION.mar, by default named like the folder ``run`` and with the number of
    tasks as version, and keep the bundle in the new folder ``keep``; ``serving`` and ``replace`` are
    ``write_archive``'s, and ``options`` are ``write_bundle``'s. ``repack``: lay the network's pages anew, for
    this version and later ones. ``triton``: instead write the folder STORE/NAME of a Triton repository.

    Without a ``layout`` the archive has that of the last one of this name in ``store``, or is paged.
    ``ExportError`` says what is wrong with the network, or with what was asked."""
    if keep is not None and keep.exists():
        raise ExportError(f"{keep} exists already; name a new folder")
    name = name or Path(os.path.realpath(run)).name  # also of a link to itself, which resolve() raises at
    try:
        net = EideticNetwork.load(run)
        known = net.learned.pages
        if repack:
            net.learned = net.learned.with_pages(())
        model_version = model_version or f"{len(net.tasks)}.0"
        check_names(name, model_version)
        archive = store / (name if triton else f"{name}-{model_version}.mar")
        if triton:
            version_number(model_version)  # before any work is done
        before = list(_versions(store, name))
        if options.get("layout") is None:
            options["layout"] = usual_layout(before, options)
        paged = options["layout"] in ("paged", "lasting", "auto")
        if repack and not paged:
            raise ExportError(f"--repack lays pages, and the layout is to be {options['layout']}: use paged")
        with ExitStack() as stack:  # both folders before anything is made
            folder = stack.enter_context(scratch_folder(archive))
            if keep is not None:
                folder = stack.enter_context(whole_folder(keep))
            write_bundle(net, folder, name=name, model_version=model_version, **options)
            if triton:
                write_repository(folder, archive, serving or {}, replace=replace)
            else:
                _warn_of_changes(before, read_bundle((folder / BUNDLE).read_bytes()))
                write_archive(folder, HANDLERS, archive, serving, replace=replace)
        if paged and net.pages() != known:  # last, so an export that fails leaves the run as it was
            _keep_pages(net, run, archive, anew=repack)
    except EideticError as error:
        raise ExportError(str(error)) from error
    return archive


def _versions(store: Path, name: str) -> Iterator[Bundle]:
    """What archives of this name in ``store`` say of themselves, the newest first."""
    for path in sorted(store.glob(f"{name}-*.mar"), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(ArchiveError):
            if (bundle := read_archive(path).bundle).name == name:
                yield bundle


def _warn_of_changes(before: Sequence[Bundle], bundle: Bundle) -> None:
    """Say what a deploy over the newest of the versions ``before`` would refuse, whatever was learned."""
    for last in [known for known in before if known.model_version != bundle.model_version][:1]:
        for change in changed_contract(last, bundle):
            warnings.warn(
                f"no deploy over version {last.model_version} will take this: {change}", stacklevel=2
            )


def usual_layout(before: Sequence[Bundle], asked: Mapping[str, Any]) -> Choice:
    """The layout that the newest of the versions ``before`` has, so that the next one can be compared with
    it; else that which promises most and costs least."""
    # float16 ends at 65,504, so no value is sure to be finite; int8 has one scale for all owners of a page
    whole = asked.get("precision", "float32") == "float32"
    for bundle in before:
        if bundle.layout is not None and (whole or bundle.layout != "paged"):
            return bundle.layout
    usual = whole and asked.get("format", "onnx") == "onnx"
    return "lasting" if usual else "nested"


def _keep_pages(net: EideticNetwork, run: Path, archive: Path, anew: bool) -> None:
    """Store the network's pages, so that later versions add to them."""
    try:
        net.save(run)
    except CheckpointError as error:
        if anew:
            raise ExportError(f"{archive} is there, and its pages could not be stored: {error}") from error
        warnings.warn(f"{error}; its pages are laid again by the next export", stacklevel=2)
    if anew:
        warnings.warn(
            f"{run} has other pages from now on, {len(net.pages())} of them: later versions are proven "
            "against this one, and not against earlier ones",
            stacklevel=2,
        )
