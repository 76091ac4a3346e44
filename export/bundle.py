"""The bundle: the folder that is the whole contract between training and serving."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save as save_tensors

from eideticnet import EideticNetwork
from export.contract import SCHEMA, names_problem, read_bundle
from export.errors import ArchiveError, ExportError
from export.graph import ONNX_INPUTS, OPSET, OUTPUTS, write_onnx, write_torchscript

Format = Literal["onnx", "torchscript"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FILES = {"onnx": "model.onnx", "torchscript": "model.pt"}


def write_bundle(
    net: EideticNetwork,
    folder: Path,
    *,
    name: str,
    model_version: str,
    format: Format = "onnx",
    max_instances: int = 64,
) -> None:
    """Write graph, ``bundle.json`` and ``probes.safetensors`` into the empty folder ``folder``."""
    for what, text in (("name", name), ("model version", model_version)):
        if not _NAME.fullmatch(text):
            raise ExportError(f"{what} {text!r}: use up to 64 letters, digits, '.', '_' and '-'")
    problem = names_problem((task.name, task.classes) for task in net.tasks)
    if problem:
        raise ExportError(problem)
    writer = write_onnx if format == "onnx" else write_torchscript
    writer(net, folder / _FILES[format])
    (folder / "probes.safetensors").write_bytes(save_tensors({t.owner: t.probes for t in net.tasks}))
    bundle = describe(net, name, model_version, format, max_instances)
    write_description(bundle, folder)


def write_description(bundle: dict[str, Any], folder: Path) -> None:
    """Write ``bundle.json``, with the SHA-256 of every other file in ``folder``, once they are all there."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    sums = {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    text = json.dumps({**bundle, "files": sums}, indent=1, ensure_ascii=False, sort_keys=True)
    try:
        read_bundle(text.encode())
    except ArchiveError as error:
        raise ExportError(f"what was to be written can't be read: {error}") from error
    (folder / "bundle.json").write_text(text, encoding="utf-8")


def describe(
    net: EideticNetwork, name: str, model_version: str, format: Format, max_instances: int
) -> dict[str, Any]:
    """What ``bundle.json`` says."""
    routing = net.learned.routing
    assert routing is not None, "prepare() refuses a network that can't route"
    digests, reports = net.digests(), net.metadata.get("report", {})
    return {
        "schema": SCHEMA,
        "name": name,
        "model_version": model_version,
        "format": format,
        "model": _FILES[format],
        "layout": "nested",
        "neurons": sum(net.program.groups.values()),
        "precision": "float32",
        "graph": {"inputs": list(ONNX_INPUTS), "outputs": list(OUTPUTS)},
        "input": asdict(net.inputs),
        "limits": {"max_instances": max_instances},
        "tasks": [
            {
                "name": t.name,
                "owner": t.owner,
                "classes": list(t.classes),
                "revision": t.revision,
                "digest": digests[t.label],
                "neurons": sum(net.learned.block(t.owner).own.values()),
                "report": reports.get(t.name, {}),
            }
            for t in net.tasks
        ],
        "routing": {"rule": routing.decision, **routing.to_json()},
        "tools": _tools(format),
    }


def _tools(format: Format) -> dict[str, str]:
    tools = {"python": platform.python_version(), "torch": torch.__version__}
    if format == "onnx":
        tools |= {"onnx": version("onnx"), "opset": str(OPSET)}
    return tools
