"""Retention: whether every task of one version stands unchanged in another.

Proven from the graphs (each task's digest) and by running both versions here and now, each probe
pinned to its task, same batch, same thread count, bits compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from eideticnet.contract.bundle import Bundle, Limits
from eideticnet.contract.parts import as_json
from eideticnet.export.graph.idle import hazards
from eideticnet.export.graph.session import Run, session
from eideticnet.export.graph.tail import PINNED, THRESHOLD, X, logits_name
from eideticnet.export.proof.version import Key, OpenVersion

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TaskProof:
    """What was seen of one revision of one task. ``bits`` is None where it was not run: it did not
    answer in the old version, which keeps no probes for it. ``batch_sizes``: those that it was run with."""

    name: str
    revision: int
    answers: bool
    digest: str
    unchanged: bool
    bits: bool | None
    batch_sizes: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def changed_promises(old: OpenVersion, new: OpenVersion) -> Iterator[str]:
    """What clients of ``old`` rely on and ``new`` does not keep, digests and bits aside."""
    if old.archive.name != new.archive.name:
        yield f"the model is called {new.archive.name!r}, and {old.archive.name!r} before"
    for key, task in old.tasks().items():
        if key not in new.tasks():
            yield f"{label(key)} is missing"
        elif new.tasks()[key].classes != task.classes:
            yield f"{label(key)}: classes were {list(task.classes)} and are {list(new.tasks()[key].classes)}"
    held, holds = ({t.name: list(t.classes) for t in v.bundle.tasks} for v in (old, new))
    for name, classes in held.items():  # whichever revision of it answers
        if name not in holds:
            yield f"task {name!r} no longer answers"
        elif holds[name][: len(classes)] != classes:
            yield f"task {name!r} answers with the classes {holds[name]}, and with {classes} before"
    first, firsts = list(held), list(holds)[: len(held)]
    if firsts != first and set(first) <= set(holds):
        yield f"tasks answer in another order: {first} were first, now {firsts}"
    yield from changed_contract(old.bundle, new.bundle)


def changed_contract(old: Bundle, new: Bundle) -> Iterator[str]:
    """What no later version may change, whatever it has learned: inputs, label space, limits."""
    was, now = as_json(old.input), as_json(new.input)
    for part in sorted(was.keys() | now.keys()):
        if was.get(part) != now.get(part):
            before, after = json.dumps(was.get(part)), json.dumps(now.get(part))
            yield f"the input contract changed: {part} was {before} and is {after}"
    yield from _changed_labels(old.classes, new.classes)
    yield from _changed_limits(old.limits, new.limits)


def _changed_labels(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    if bool(old) != bool(new):
        was, now = ("shared" if classes else "separate" for classes in (old, new))
        yield (
            f"the label space is {now}, and was {was}: it is part of the input contract since the first "
            f'export; export a network with label_space = "{was}", or under another name'
        )
    elif new[: len(old)] != old:
        yield f"classes were numbered {list(old)}, and are {list(new)}"


def _changed_limits(old: Limits, new: Limits) -> Iterator[str]:
    if new.max_instances < old.max_instances:
        yield (
            f"a request may hold {new.max_instances} instances, and {old.max_instances} before: export "
            f"with --max-instances {old.max_instances}"
        )
    if old.max_pixels and new.max_pixels and new.max_pixels < old.max_pixels:
        yield f"an image may have {new.max_pixels} pixels, and {old.max_pixels} before"
    if (most := old.max_decoded_pixels or 0) > (new.max_decoded_pixels or 0):
        yield f"{most} pixels of an image were decoded before: export with --max-pixels {most}"
    if old.max_batch and (new.max_batch is None or new.max_batch > old.max_batch):
        yield f"answers depend on their batch, of which max_batch {old.max_batch} was the most"


def task_proofs(old: OpenVersion, new: OpenVersion, run: bool = True) -> tuple[list[TaskProof], list[str]]:
    """For each revision of each task of ``old`` that ``new`` has what was seen, and a sentence for what is
    wrong. Without ``run`` the digests alone are compared."""
    held = {key: task for key, task in old.tasks().items() if key in new.tasks()}
    runs = (session(old.graph), session(with_heads(new))) if run else None
    proofs, problems = [], []
    for key, before in held.items():
        after = new.tasks()[key]
        unchanged = old.digest(before) == new.digest(after)
        if not unchanged:
            problems.append(f"{label(key)} changed: its digest is another")
        answers = after in new.bundle.tasks
        bits: bool | None = None
        sizes = list[int]()
        if runs and before in old.bundle.tasks:
            bits, sizes, wrong = _compare(old, new, key, runs)
            problems += wrong
        proofs.append(TaskProof(*key, answers, new.digest(after), unchanged, bits, tuple(sizes)))
    for version in (old, new):
        problems += _disturbed(version, held)
    return proofs, problems


def _disturbed(version: OpenVersion, keys: Iterable[Key]) -> Iterator[str]:
    """Where what these tasks do not read may reach them all the same, as zero times infinity."""
    if version.values is not None:
        heads = {logits_name(version.tasks()[key].owner): key for key in keys}
        spec = version.bundle.input
        for head, reason in hazards(version.values, heads, spec.low, spec.high):
            yield f"{label(heads[head])}, in {version.archive.path.name}: {reason}"


def label(key: Key) -> str:
    """A task as messages name it."""
    name, revision = key
    return f"task {name!r}" + (f", revision {revision}" if revision else "")


def with_heads(version: OpenVersion) -> onnx.ModelProto:
    """The graph with each head's unpadded logits among its outputs, also of those that don't answer."""
    model = onnx.ModelProto()
    model.CopyFrom(version.graph)
    for task in version.tasks().values():
        model.graph.output.append(onnx.ValueInfoProto(name=logits_name(task.owner)))
    return model


def other_pages(old: Bundle, new: Bundle) -> bool:
    """Whether tasks are said to lie elsewhere than before: in another layout, or in pages that are no
    successors of the old ones."""
    pairs = zip(old.pages, new.pages, strict=False)
    moved = any(
        (was.slots, was.sources, was.most) != (now.slots, now.sources, now.most)
        or now.owners[: len(was.owners)] != was.owners
        for was, now in pairs
    )
    return old.layout != new.layout or len(new.pages) < len(old.pages) or moved


def other_layout(old: OpenVersion, new: OpenVersion) -> list[str]:
    """How far the answers of two layouts of the same tasks are apart, on the old version's probes."""
    runs, apart, flips, count = (session(old.graph), session(with_heads(new))), 0.0, 0, 0
    for task in old.bundle.tasks:
        x = np.ascontiguousarray(old.archive.probes[task.owner])
        _, was, now = both(old, new, (task.name, task.revision), runs, x)
        apart, count = max(apart, float(np.abs(now - was).max(initial=0))), count + len(x)
        flips += int((now.argmax(1) != was.argmax(1)).sum())
    claims = [{key: task.network_digest for key, task in version.tasks().items()} for version in (old, new)]
    other = [label(key) for key, digest in claims[0].items() if claims[1].get(key) != digest]
    tensors = f"they claim other weights of {', '.join(other)}" if other else "they claim the same weights"
    before = old.bundle.layout
    said = f"layout is {new.bundle.layout}, and was {before}: with --layout {before} it can be proven"
    if new.bundle.layout == before:
        said = "its pages were laid anew: exported from a run that has the old ones it can be proven"
    return [
        said,
        f"{tensors}; on {count} probes logits differ by at most {apart:.1e}, and {flips} answers flip",
    ]


def _compare(
    old: OpenVersion, new: OpenVersion, key: Key, runs: tuple[Run, Run]
) -> tuple[bool, list[int], list[str]]:
    before, after = old.tasks()[key], new.tasks()[key]
    probes = old.archive.probes[before.owner]
    equal, wrong, sizes = True, list[str](), sorted({1, len(probes)})
    for size in sizes:
        said, was, head = both(old, new, key, runs, np.ascontiguousarray(probes[:size]))
        if not same_bits(was, head, old):
            equal = False
            wrong.append(f"{label(key)}: the logits of its probes differ at batch size {size}")
        if after in new.bundle.tasks and said.tobytes() != head.tobytes():
            wrong.append(f"{label(key)}: the new version answers with something else than its head's logits")
    return equal, sizes, wrong


def both(
    old: OpenVersion, new: OpenVersion, key: Key, runs: tuple[Run, Run], x: Array
) -> tuple[Array, Array, Array]:
    """What the new version answers if pinned to this task, and the logits of old and new head."""
    before, after = old.tasks()[key], new.tasks()[key]
    held = old.bundle.tasks, new.bundle.tasks
    places = [ts.index(t) if t in ts else 0 for ts, t in zip(held, (before, after), strict=True)]
    was, now = (run(_pinned(x, place)) for run, place in zip(runs, places, strict=True))
    classes = len(before.classes)
    return now["logits"][:, :classes], was["logits"][:, :classes], now[logits_name(after.owner)]


def same_bits(before: Array, after: Array, version: OpenVersion) -> bool:
    """Whether logits are the same. In pages a later owner may turn -0.0 into 0.0."""
    paged = version.values is not None
    one, other = (each + np.float32(0) if paged else each for each in (before, after))
    return bool(one.tobytes() == other.tobytes())


def _pinned(x: Array, task: int) -> dict[str, Array]:
    return {X: x, PINNED: np.full(len(x), task), THRESHOLD: np.zeros(len(x), np.float32)}
