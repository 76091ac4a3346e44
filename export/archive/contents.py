"""What an archive may hold, file by file: nothing but what we write, and nothing that reaches outside.

Nothing is executed, unpickled or written. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import yaml
from google.protobuf.message import DecodeError, Message
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from eideticnet.contract.bundle import SHARED, Bundle
from eideticnet.contract.parts import Closed, Many
from eideticnet.export.archive.contract import checked, parse_json, read_bundle
from eideticnet.export.archive.labeled_inputs import LabeledInputs, real_inputs
from eideticnet.export.archive.releases import HANDLER, check_released, is_handler
from eideticnet.export.errors import NO_ARCHIVE, ArchiveError

BUNDLE, PROBES, VALIDATION, CONFIG, MANIFEST = (
    *("bundle.json", "probes.safetensors", "validation.safetensors"),
    *("model-config.yaml", "MAR-INF/MANIFEST.json"),
)
_SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}
_LARGEST_TEXT, _LARGEST_PROBES, _LARGEST_GRAPH = 8 << 20, 256 << 20, 2 << 30
_LARGEST_CONFIG = 64 << 10
_FOLDERS = 5
"""The minor version of the schema since which the handler's runtime is a folder."""

Probes = dict[str, npt.NDArray[Any]]


def limit(name: str) -> int:
    """The most bytes that a file of this name may have."""
    if name in (CONFIG, MANIFEST):
        return _LARGEST_CONFIG
    if name.endswith((".json", ".py")):
        return _LARGEST_TEXT
    return _LARGEST_PROBES if name in (PROBES, VALIDATION) else _LARGEST_GRAPH


def check_contents(members: Mapping[str, bytes], *, revoked: bool = False) -> tuple[Bundle, Probes]:
    """The bundle and its probes, if ``members`` are an archive that may be served, or could be before its
    handler was ``revoked``.

    Raises ``ArchiveError`` with the reason, which names the file.
    """
    if BUNDLE not in members:
        raise ArchiveError(f"it holds no {BUNDLE!r}; {NO_ARCHIVE}")
    bundle = read_bundle(members[BUNDLE])
    _check_listed(bundle, members)
    _check_sums(bundle, members)
    _check_manifest(parse_json(members[MANIFEST], MANIFEST), bundle)
    _check_config(members[CONFIG], bundle)
    handler = {n: data for n, data in members.items() if is_handler(n)}
    check_released(handler, revoked=revoked, minor=0 if not bundle.classes else SHARED)
    _check_graphs(bundle, members)
    if VALIDATION in members:
        validation(bundle, members[VALIDATION])
    return bundle, _probes(bundle, members[PROBES])


def _check_listed(bundle: Bundle, members: Mapping[str, bytes]) -> None:
    if not bundle.model.endswith(_SUFFIXES[bundle.format]):
        raise ArchiveError(f"bundle.json calls {bundle.model!r} a file of format {bundle.format!r}")
    prefixes = {prefix.file: prefix.bytes for prefix in bundle.prefixes}
    needed = {BUNDLE, PROBES, CONFIG, MANIFEST, HANDLER, bundle.model, *prefixes}
    folders = sorted(name for name in members if is_handler(name) and "/" in name)
    if folders and bundle.minor < _FOLDERS:
        raise ArchiveError(
            f"it holds {folders[0]!r}, and its bundle.json has schema {bundle.schema_version}; "
            f"a handler is flat files before 1.{_FOLDERS}.0: export it again"
        )
    for name in sorted(needed - members.keys()):
        raise ArchiveError(f"it lacks {name!r}")
    for name in sorted(members.keys() - needed):
        if not is_handler(name) and name != VALIDATION:
            raise ArchiveError(f"it holds {name!r}, which belongs in no EideticNet archive")
    for name, size in prefixes.items():
        if len(members[name]) != size:
            raise ArchiveError(f"{name!r} has {len(members[name])} bytes, and {size} in bundle.json")


def _check_sums(bundle: Bundle, members: Mapping[str, bytes]) -> None:
    """Every file of the bundle must be the one that bundle.json was written for."""
    if bundle.files is None:
        return  # the schema lets only bundles from before 1.2 be without
    ours = {BUNDLE, CONFIG, MANIFEST}
    found = {n: sha256(d).hexdigest() for n, d in members.items() if n not in ours and not is_handler(n)}
    stated = bundle.files
    for name in sorted({*found, *stated}):
        if found.get(name) != stated.get(name):
            raise ArchiveError(f"the SHA-256 of {name!r} is not the one that bundle.json states")


def manifest(name: str, version: str, model: str) -> dict[str, Any]:
    """TorchServe's manifest for an archive whose graph is the file ``model``."""
    return {
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": name,
            "modelVersion": version,
            "serializedFile": model,
            "handler": HANDLER,
            "configFile": CONFIG,
        },
    }


def _check_manifest(found: Any, bundle: Bundle) -> None:
    """The manifest is what TorchServe acts on, so it may say nothing but what bundle.json says."""
    expected = manifest(bundle.name, bundle.model_version, bundle.model)
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise ArchiveError(f"{MANIFEST} is no EideticNet manifest")
    for ours, theirs in ((expected["model"], found["model"]), (expected, found)):
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                what = f"{key!r} is {str(theirs.get(key))[:100]!r}, expected {ours.get(key)!r}"
                raise ArchiveError(f"{MANIFEST}: {what}")


Workers = Annotated[int, Field(ge=1, le=1024)]
Rows = Annotated[int, Field(ge=1, le=1 << 16)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]


class _Handler(Closed):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Workers = 1
    buckets: Annotated[Many[Rows], Field(min_length=1, max_length=64)] = ()


class _Config(Closed):
    """TorchServe's configuration has options that run commands, so only these are accepted."""

    minWorkers: Workers = 1  # noqa: N815
    maxWorkers: Workers = 1  # noqa: N815
    batchSize: Rows = 1  # noqa: N815
    maxBatchDelay: Annotated[int, Field(ge=0, le=60_000)] = 0  # noqa: N815
    responseTimeout: Seconds = 1  # noqa: N815
    startupTimeout: Seconds = 1  # noqa: N815
    handler: _Handler = _Handler()


def _check_config(data: bytes, bundle: Bundle) -> None:
    wrong = f"{CONFIG} is not as an export writes it"
    if b"&" in data:  # a few anchors, each naming the one before it many times, are gigabytes in print
        raise ArchiveError(f"{wrong}: it holds anchors")
    try:
        found = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise ArchiveError(f"{wrong}: {said}") from None
    config, most = checked(_Config, found, wrong), bundle.limits.max_batch
    if most is not None and config.batchSize > most:
        raise ArchiveError(
            f"{CONFIG} has batchSize {config.batchSize}; answers depend on their batch, and bundle.json "
            f"allows {most}"
        )


def _check_graphs(bundle: Bundle, members: Mapping[str, bytes]) -> None:
    for prefix in bundle.prefixes:
        _graph(members[prefix.file], prefix.file)
    if bundle.format != "onnx":
        return  # TorchScript and .pt2 can't be looked into without running what they hold
    graph, names = _graph(members[bundle.model], bundle.model), bundle.graph
    if {value.name for value in graph.input} != set(names.inputs):
        raise ArchiveError(f"{bundle.model!r} has other inputs than bundle.json says")
    if not {value.name for value in graph.output} >= set(names.outputs):
        raise ArchiveError(f"{bundle.model!r} lacks outputs that bundle.json names")


def _graph(data: bytes, name: str) -> onnx.GraphProto:
    """The graph in the ONNX file ``data``, which must be valid and hold all of its weights itself."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        if any(_is_external(tensor) for tensor in _tensors(model)):
            raise ArchiveError(f"{name!r} refers to external data; a graph here holds its weights itself")
        onnx.checker.check_model(data)
    except (DecodeError, onnx.checker.ValidationError, RecursionError, ValueError) as error:
        raise ArchiveError(f"{name!r} is no valid ONNX file: {str(error)[:200]}") from None
    return model.graph


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in ``message``: initializers, attributes, inner graphs, functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _tensors(inner)


def validation(bundle: Bundle, data: bytes) -> LabeledInputs:
    """The real inputs in an archive's validation.safetensors."""
    arrays = _safetensors(data, VALIDATION)
    strange = sorted(arrays.keys() - {"x", "task", "label"})
    if strange:
        raise ArchiveError(f"{VALIDATION} holds {strange[0]!r}; expected x, task and label")
    return real_inputs(arrays, bundle.input, VALIDATION)


def _safetensors(data: bytes, name: str) -> Probes:
    try:
        return load_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArchiveError(f"{name} can't be read: {error}") from None


def _probes(bundle: Bundle, data: bytes) -> Probes:
    """A few inputs (n, *shape) for each task, by owner."""
    probes = _safetensors(data, PROBES)
    shape, dtype = bundle.input.shape, bundle.input.dtype
    for task in bundle.tasks:
        found = probes.get(task.owner)
        if found is None or not found.size:
            raise ArchiveError(f"{PROBES} holds none for task {task.name!r}")
        if found.shape[1:] != shape or found.dtype != dtype or not np.isfinite(found).all():
            raise ArchiveError(f"{PROBES} for task {task.name!r}: expected finite {dtype}, each {shape}")
    return probes
