"""A model repository of NVIDIA's Triton: a bundle's graph, with a configuration in protobuf's text format.

Triton takes the batch for granted, so a value of one number a row has dims [1] there and is reshaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from eideticnet.contract.bundle import Bundle
from eideticnet.export.archive.contents import BUNDLE
from eideticnet.export.archive.contract import read_bundle
from eideticnet.export.archive.writer import SERVING
from eideticnet.export.errors import ExportError
from eideticnet.export.files import scratch_folder

CONFIG, GRAPH, TASKS, CLASSES = "config.pbtxt", "model.onnx", "tasks.txt", "classes.txt"
_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.INT64: "TYPE_INT64"}
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}
_LARGEST = (1 << 31) - 1
_WHOLE = re.compile(r"([1-9][0-9]{0,17})(\.0)*")


def version_number(model_version: str) -> int:
    """The number that a model version has in Triton, which knows whole ones alone: N of "N", "N.0", "N.0.0".
    ``ExportError`` for any other."""
    if (found := _WHOLE.fullmatch(model_version)) is None:
        raise ExportError(
            f"the model version {model_version!r} is no number from 1 as Triton needs one: give "
            "--model-version N or N.0"
        )
    return int(found[1])


def write_repository(bundle: Path, model: Path, serving: Mapping[str, Any], *, replace: bool = False) -> None:
    """Make of the folder ``bundle``, of an ONNX graph, the model's folder ``model``, whole or not at all: its
    configuration, names as lists of labels, ``bundle.json``, and the graph under the version's number.

    ``serving``: as of ``write_archive``; Triton has its handler's device and threads. Another folder that is
    there stays unless it says ``replace``; ``ExportError`` says so."""
    handler = {**SERVING["handler"], **serving.get("handler", {})}
    described = read_bundle((bundle / BUNDLE).read_bytes())
    graph = onnx.load(bundle / described.model).graph
    with scratch_folder(model) as scratch:
        made = scratch / "made"
        version = made / str(version_number(described.model_version))
        version.mkdir(parents=True)
        (version / GRAPH).write_bytes((bundle / described.model).read_bytes())
        (made / BUNDLE).write_bytes((bundle / BUNDLE).read_bytes())
        for name, labels in _labels(described).items():
            (made / name).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        (made / CONFIG).write_text("\n".join(_config(described, graph, handler)) + "\n", encoding="utf-8")
        _into_place(made, model, scratch / "old", replace)


def _into_place(made: Path, model: Path, aside: Path, replace: bool) -> None:
    if not model.exists():
        made.rename(model)
        return
    if not replace and not _same(made, model):
        raise ExportError(
            f"{model} is there already, with other content: --replace takes its place (one configuration "
            "holds for all versions in it, and a version with more tasks has another), or give another "
            "--name or --store"
        )
    model.rename(aside)
    try:
        made.rename(model)
    except OSError:
        aside.rename(model)
        raise


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    return _files(one) == _files(other)


def _files(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _labels(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """The files of labels: of tasks, and where they share their labels, of those."""
    tasks = tuple(task.name for task in bundle.tasks)
    return {TASKS: tasks} | ({CLASSES: bundle.classes} if bundle.classes else {})


def _config(bundle: Bundle, graph: onnx.GraphProto, handler: Mapping[str, Any]) -> Iterator[str]:
    """The lines of config.pbtxt."""
    rows = bundle.limits.max_batch or min(bundle.limits.max_instances, _LARGEST)
    yield f"name: {_text(bundle.name)}"
    yield 'backend: "onnxruntime"'
    yield f"default_model_filename: {_text(GRAPH)}"
    yield f"max_batch_size: {rows}"
    if rows > 1:
        delay = 1000 * SERVING["maxBatchDelay"]
        yield f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}"
    yield f"instance_group [ {{ count: 1 kind: {_KINDS[handler['device']]} }} ]"
    labels = {"task_probs": TASKS, **({"label_probs": CLASSES} if bundle.classes else {})}
    for value in graph.input:
        yield f"input [ {{ {_value(value)} }} ]"
    for value in graph.output:
        file = labels.get(value.name)
        yield f"output [ {{ {_value(value)}{f' label_filename: {_text(file)}' if file else ''} }} ]"
    for key, text in _parameters(bundle, handler).items():
        yield f"parameters {{ key: {_text(key)} value {{ string_value: {_text(text)} }} }}"


def _value(value: onnx.ValueInfoProto) -> str:
    """Name, type and dims of one of the graph's values, the batch left out."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim[1:]]
    shape = f"dims: {dims}" if dims else "dims: [1] reshape { shape: [] }"
    return f"name: {_text(value.name)} data_type: {_TYPES[tensor.elem_type]} {shape}"


def _parameters(bundle: Bundle, handler: Mapping[str, Any]) -> dict[str, str]:
    """The back end's threads, and what a client has to know to read an answer and to ask for it."""
    tasks = [{"name": task.name, "classes": task.classes} for task in bundle.tasks]
    known = {"model_version": bundle.model_version, "tasks": json.dumps(tasks, ensure_ascii=False)}
    if bundle.classes:
        known["classes"] = json.dumps(bundle.classes, ensure_ascii=False)
    return {
        "intra_op_thread_count": str(handler["threads"]),
        "inter_op_thread_count": "1",
        **known,
        "threshold": repr(bundle.routing.threshold),
    }


def _text(text: str) -> str:
    """A string of the text format, whose escapes are those of JSON where all is printable."""
    return json.dumps(text, ensure_ascii=False)
