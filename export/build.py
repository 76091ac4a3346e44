"""From a run's folder to an archive in a model store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from eideticnet import EideticError, EideticNetwork
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.releases import HANDLERS
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.graph_file import Form, Layout, onnx_body
from eideticnet.export.bundle.writer import check_names, write_bundle
from eideticnet.export.errors import ArchiveError, ExportError
from eideticnet.export.files import scratch_folder, whole_folder
from eideticnet.export.graph.idle import hazards
from eideticnet.export.graph.tail import logits_name
from eideticnet.export.graph.values import Values
from eideticnet.export.lowering.body import check
from eideticnet.export.lowering.paged import can_be_paged


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
    **options: Any,
) -> Path:
    """Write STORE/NAME-VERSION.mar, by default named like the folder ``run`` and with the number of
    tasks as version, and keep the bundle in the new folder ``keep``; ``serving`` and ``replace`` are
    ``write_archive``'s, and ``options`` are ``write_bundle``'s. ``repack``: lay the network's pages anew, for
    this version and later ones.

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
        archive = store / f"{name}-{model_version}.mar"
        if options.get("layout") is None:
            options["layout"] = usual_layout(net, store, name, options)
        if repack or (options["layout"] == "paged" and net.pages() != known):
            net.save(run)  # so that later versions add to these pages
        with ExitStack() as stack:  # both folders before anything is made
            folder = stack.enter_context(scratch_folder(archive))
            if keep is not None:
                folder = stack.enter_context(whole_folder(keep))
            write_bundle(net, folder, name=name, model_version=model_version, **options)
            write_archive(folder, HANDLERS, archive, serving, replace=replace)
    except EideticError as error:
        raise ExportError(str(error)) from error
    return archive


def usual_layout(net: EideticNetwork, store: Path, name: str, asked: Mapping[str, Any]) -> Layout:
    """The layout that the newest archive of this name in ``store`` has, so that the next one can be compared
    with it; else pages, where they promise as much as blocks do."""
    versions = sorted(store.glob(f"{name}-*.mar"), key=lambda path: path.stat().st_mtime)
    for path in reversed(versions):
        with suppress(ArchiveError):
            bundle = read_archive(path).bundle
            if bundle.name == name and bundle.layout is not None:
                return bundle.layout
    # float16 ends at 65,504, so no value is sure to be finite; int8 has one scale for all owners of a page
    usual = (asked.get("format", "onnx"), asked.get("precision", "float32")) == ("onnx", "float32")
    return "paged" if usual and can_be_paged(net) and _lasting(net) else "nested"


def _lasting(net: EideticNetwork) -> bool:
    """Whether it can be proven that who joins these pages changes nothing for the others: not behind
    operators of which a proof knows too little."""
    check(net)
    if all(len(page.owners) == page.most for page in net.pages()):
        return True
    heads = [logits_name(task.owner) for task in net.learned.tasks]
    try:
        values = Values(onnx_body(net, Form(layout="paged")))
        found = any(hazards(values, heads, net.inputs.low, net.inputs.high))
    except ArchiveError:
        return False
    return not (found or values.opaque.intersection(heads))
