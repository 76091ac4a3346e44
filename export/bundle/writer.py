"""The bundle: the folder that is the whole contract between training and serving."""

from __future__ import annotations

import platform
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from safetensors.torch import save as save_tensors

from eidetic_runtime.contract import MAX_PIXELS, usual_pixels
from eideticnet import EideticNetwork, Task
from eideticnet.contract.bundle import (
    SCHEMA,
    SEPARATE,
    Bundle,
    BundledPage,
    BundledTask,
    GraphNames,
    Input,
    Limits,
    MultiplyAdds,
    Prefix,
    RouterSize,
    RoutingRule,
    TaskReport,
    names_problem,
)
from eideticnet.export.archive.contents import VALIDATION
from eideticnet.export.archive.contract import read_bundle
from eideticnet.export.archive.labeled_inputs import LabeledInputs, check_indices, read_inputs
from eideticnet.export.bundle.agreement import Reference, agreement, eager
from eideticnet.export.bundle.faster_layout import write_faster
from eideticnet.export.bundle.graph_file import Form, Format, Layout, runner, save, write_graph
from eideticnet.export.errors import ArchiveError, ExportError, InputsError
from eideticnet.export.files import filled
from eideticnet.export.graph.digest import digests
from eideticnet.export.graph.idle import hazards
from eideticnet.export.graph.lanes import lane_digests
from eideticnet.export.graph.prefix import prefix
from eideticnet.export.graph.session import session
from eideticnet.export.graph.tail import INPUTS, OUTPUTS, PREFIX_INPUTS, TailRule, logits_name
from eideticnet.export.graph.values import OPSET, Values
from eideticnet.export.lowering.body import check, evaluating
from eideticnet.export.lowering.precision import Precision
from eideticnet.export.proof.doubts import doubts
from eideticnet.learned import ROUTER
from eideticnet.runs.history import read

Json = dict[str, Any]
Choice = Layout | Literal["auto", "lasting"]
"""A layout, or how one is chosen."""
FLEETING = (
    "a proof knows too little of this trunk's operators: it will refuse versions in which another task has "
    "joined these pages; --layout nested has no such end"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FILES = {"onnx": "model.onnx", "torchscript": "model.pt", "pt2": "model.pt2"}


def write_bundle(
    net: EideticNetwork,
    folder: Path,
    *,
    name: str,
    model_version: str,
    format: Format = "onnx",
    layout: Choice = "nested",
    precision: Precision = "float32",
    prefixes: Sequence[int] = (),
    validation: Path | None = None,
    routing_data: Path | None = None,
    max_instances: int = 64,
    max_pixels: int | None = None,
) -> None:
    """Write graph, ``bundle.json`` and ``probes.safetensors`` into the empty folder ``folder``.

    ``layout`` "auto" takes another than the nested one if it is clearly faster here, "lasting" the paged one
    unless a proof would refuse who joins its pages, and then the nested one. ``prefixes``: for each
    number in it a graph that answers requests pinned to one of the first N tasks (ONNX, nested or paged).
    ``validation``: real inputs that may travel in the bundle, by which the routing of later versions is
    judged. On them, or on ``routing_data``, whatever may differ from the network is compared with it.
    ``max_pixels`` of a picture are decoded, by default ``usual_pixels``."""
    check_names(name, model_version)
    check(net)
    problem = names_problem((task.name, task.classes) for task in net.tasks)
    if problem:
        raise ExportError(problem)
    _check_prefixes(prefixes, format, layout, len(net.tasks))
    bundle = describe(net, name, model_version, format, _limits(net, max_instances, max_pixels))
    kept = None if validation is None else read_inputs(validation, bundle.input, "validation data")
    real = kept if routing_data is None else read_inputs(routing_data, bundle.input)
    for given in (kept, real if real is not kept else None):
        if given is not None:
            check_indices(given, bundle.tasks)
            _refuse_mixed_up(net, given, bundle)
    with filled(folder), evaluating(net):
        form = Form(format, "nested", precision)
        said = _write_graphs(Reference.of(net), folder, bundle, form, layout, prefixes)
        bundle = bundle.model_copy(update=said)
        if bundle.layout == "dense" or precision != "float32":
            run, limit = runner(format, folder / bundle.model), bundle.limits.max_batch
            found = agreement(net, bundle, run, real, *([limit] if limit else []))
            bundle = bundle.model_copy(update={"accuracy": found})
        (folder / "probes.safetensors").write_bytes(save_tensors({t.owner: t.probes for t in net.tasks}))
        if kept is not None:
            (folder / VALIDATION).write_bytes(_tensors(kept))
        write_description(bundle, folder)


def check_names(name: str, model_version: str) -> None:
    """``ExportError`` unless both can be part of a URL, and of a file's name."""
    for what, text in (("name", name), ("model version", model_version)):
        if not _NAME.fullmatch(text):
            option = f"--{what.replace(' ', '-')}"
            raise ExportError(
                f"the {what} {text!r} can't be part of a URL: give {option} up to 64 letters, digits, '.', "
                "'_' and '-', the first a letter or digit"
            )


def _refuse_mixed_up(net: EideticNetwork, real: LabeledInputs, bundle: Bundle) -> None:
    """``InputsError`` where the network answers worse than chance: nothing could be judged by such inputs."""
    answers = eager(net, real.x)
    for doubt in doubts(real, answers["task"], answers["label"], bundle):
        if doubt.certain:
            raise InputsError(doubt.reason)


def write_description(bundle: Bundle, folder: Path) -> None:
    """Write ``bundle.json``, with the SHA-256 of every other file in ``folder``, once they are all there."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    sums = {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    text = bundle.model_copy(update={"files": sums}).to_json()
    try:
        read_bundle(text.encode())
    except ArchiveError as error:
        raise ExportError(f"what was to be written can't be read: {error}") from error
    (folder / "bundle.json").write_text(text, encoding="utf-8")


def describe(net: EideticNetwork, name: str, model_version: str, format: Format, limits: Limits) -> Bundle:
    """What ``bundle.json`` says of any format."""
    routing = net.learned.routing
    assert routing is not None, "check() refuses a network that can't route"
    answering, capacity = net.tasks, net.capacity()
    spent = capacity.arithmetic
    return Bundle(
        schema=SCHEMA if net.classes else SEPARATE,
        name=name,
        model_version=model_version,
        format=format,
        model=_FILES[format],
        files={},
        layout="nested",
        neurons=sum(net.program.groups.values()),
        router=RouterSize(neurons=sum(row.get(ROUTER, 0) for row in capacity.values())),
        multiply_adds=MultiplyAdds(tasks=sum(spent.tasks.values()), router=spent.router, plain=spent.plain),
        precision="float32",
        graph=GraphNames(inputs=INPUTS, outputs=OUTPUTS),
        input=Input(**net.inputs.to_json()),
        limits=limits,
        tasks=_tasks(net, answering),
        **({"classes": net.classes} if net.classes else {}),
        superseded=_tasks(net, [t for t in net.learned.tasks if t not in answering]),
        routing=RoutingRule(
            rule=routing.decision, **routing.to_json(), **_doubt(read(net).doubts.get(ROUTER))
        ),
        tools=_tools(format),
    )


def _limits(net: EideticNetwork, max_instances: int, max_pixels: int | None) -> Limits:
    image = net.inputs.image
    if image is None:
        if max_pixels is not None:
            raise ExportError("--max-pixels is for networks whose inputs are pictures; leave it out")
        return Limits(max_instances=max_instances)
    if max_pixels is None:
        return Limits(max_instances=max_instances, max_pixels=MAX_PIXELS)
    if max_pixels < (usual := usual_pixels(vars(image))):
        raise ExportError(f"--max-pixels {max_pixels}: without it there are {usual}; give more")
    most = max(MAX_PIXELS, max_pixels)
    return Limits(max_instances=max_instances, max_pixels=most, max_decoded_pixels=max_pixels)


def _tasks(net: EideticNetwork, tasks: Sequence[Task]) -> tuple[BundledTask, ...]:
    digests, reports, doubts = net.digests(), net.metadata.get("report", {}), read(net).doubts
    return tuple(
        BundledTask(
            name=t.name,
            owner=t.owner,
            classes=t.classes,
            revision=t.revision,
            network_digest=digests[t.label],
            neurons=sum(net.learned.block(t.owner).own.values()),
            report=TaskReport(**reports.get(t.name, {}) | _doubt(doubts.get(t.name))),
        )
        for t in tasks
    )


def _doubt(said: str | None) -> Json:
    return {"doubt": said} if said else {}


def _write_graphs(
    reference: Reference,
    folder: Path,
    bundle: Bundle,
    form: Form,
    layout: Choice,
    prefixes: Sequence[int],
) -> Json:
    """Write the graph and its prefixes; what ``bundle.json`` says of them."""
    rule, path = TailRule.of(bundle), folder / bundle.model
    said: Json = {"precision": form.precision}
    if layout == "auto":
        form, body, said["layout_measured"] = write_faster(reference, form, rule, path)
    else:
        form = replace(form, layout="paged" if layout == "lasting" else layout)
        body = write_graph(reference, form, rule, path)
    if body is not None and _promises(form) and not _lasting(reference.net, form, body):
        if layout == "lasting":
            form = replace(form, layout="nested")
            body = write_graph(reference, form, rule, path)
        else:
            warnings.warn(FLEETING, stacklevel=2)
    said["layout"] = form.layout
    if form.layout == "paged":
        said["pages"] = tuple(BundledPage(**page.to_json()) for page in reference.net.pages())
    if form.precision == "int8":  # the scale of a value is that of the whole batch
        said |= {"batch_dependent": True, "limits": bundle.limits.model_copy(update={"max_batch": 1})}
    if body is None:
        return said
    if _promises(form):
        said |= _digested(body, bundle, form.layout)
    cut = [_write_prefix(reference, body, rule, tasks, folder, form) for tasks in prefixes]
    return {**said, "prefixes": tuple(cut)}


def _promises(form: Form) -> bool:
    """Whether an ONNX graph of this form promises bits to later versions."""
    return form.layout == "nested" or (form.layout, form.precision) == ("paged", "float32")


def _lasting(net: EideticNetwork, form: Form, body: onnx.ModelProto) -> bool:
    """Whether it can be proven that who joins these pages changes nothing for the others: not behind
    operators of which a proof knows too little."""
    if form.layout == "nested" or all(len(page.owners) == page.most for page in net.pages()):
        return True
    heads = [logits_name(task.owner) for task in net.learned.tasks]
    try:
        values = Values(body)
        found = any(hazards(values, heads, net.inputs.low, net.inputs.high))
    except ArchiveError:
        return False
    return not (found or values.opaque.intersection(heads))


def _digested(body: onnx.ModelProto, bundle: Bundle, layout: Layout) -> Json:
    """The lists of tasks, each with the digest of its logits in the graph."""
    heads = [logits_name(task.owner) for task in bundle.held]
    found = digests(body, heads) if layout == "nested" else lane_digests(Values(body), heads)
    return {
        key: tuple(task.model_copy(update={"digest": found[logits_name(task.owner)]}) for task in tasks)
        for key, tasks in (("tasks", bundle.tasks), ("superseded", bundle.superseded))
    }


def _write_prefix(
    reference: Reference, body: onnx.ModelProto, rule: TailRule, tasks: int, folder: Path, form: Form
) -> Prefix:
    path = folder / "prefix" / f"{tasks}.onnx"
    path.parent.mkdir(exist_ok=True)
    model = prefix(body, rule, tasks)
    run = session(model)
    reference.check(
        lambda feeds: run({name: feeds[name] for name in PREFIX_INPUTS}),
        form.precision,
        f"prefix {tasks}, {form.what}",
        tasks,
    )
    save(model, path)
    return Prefix(tasks=tasks, file=f"prefix/{tasks}.onnx", bytes=path.stat().st_size)


def _tensors(real: LabeledInputs) -> bytes:
    known = {"x": real.x, "task": real.task, "label": real.label}
    return save_tensors({name: torch.from_numpy(a) for name, a in known.items() if a is not None})


def _check_prefixes(prefixes: Sequence[int], format: Format, layout: str, tasks: int) -> None:
    if prefixes and (format != "onnx" or layout not in ("nested", "paged", "lasting")):
        raise ExportError(
            "prefixes are cut from ONNX graphs of the nested or paged layout, where a task's logits depend "
            f"on earlier blocks alone; this is to be {format}, {layout}"
        )
    wrong = [n for n in prefixes if not 1 <= n <= tasks]
    if wrong or len(set(prefixes)) < len(prefixes):
        raise ExportError(f"prefixes {list(prefixes)}: use different numbers of tasks from 1 to {tasks}")


def _tools(format: Format) -> dict[str, str]:
    tools = {"python": platform.python_version(), "torch": version("torch")}
    if format == "onnx":
        tools |= {"onnx": version("onnx"), "onnxscript": version("onnxscript"), "opset": str(OPSET)}
    return tools
