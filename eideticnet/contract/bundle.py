"""``bundle.json``: what a server has to know about an exported network."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from eideticnet.contract.parts import AS_GIVEN, WHOLE, ByName, Closed, Many, Maybe, Open, as_json

SCHEMA = "1.6.0"
SEPARATE = "1.5.0"
"""That of bundles whose tasks have labels of their own, in which nothing is new."""
SHARED = 6
"""The minor version since which tasks may share their labels."""
LONGEST_NAME = 200
_END = r"$(?!\n)"  # some engines let $ pass over a final newline
_NUMBER = r"(0|[1-9][0-9]{0,5})"
Slug = Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,63}}{_END}")]
Sha256 = Annotated[str, Field(pattern=rf"^[0-9a-f]{{64}}{_END}")]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Doubt = Annotated[str, Field(max_length=1000)]
_LARGEST = (1 << 63) - 1
Count = Annotated[int, Field(ge=0, le=_LARGEST), WHOLE]
Positive = Annotated[int, Field(ge=1, le=_LARGEST), WHOLE]
Number = Annotated[float, AS_GIVEN]
NotNegative = Annotated[float, Field(ge=0), AS_GIVEN]
AboveZero = Annotated[float, Field(gt=0), AS_GIVEN]
Share = Annotated[float, Field(ge=0, le=1), AS_GIVEN]

_PROVABLE = ("files", "layout", "precision", "routing", "tools")
_PROVABLE_ROUTING = ("decision", "router", "temperature", "head_temperatures")
"""What a proof needs; every bundle since 1.2.0 has it, and the revision of every task."""


class Prefix(Closed):
    """One prefix graph."""

    tasks: Positive
    """How many tasks it answers: the first ones."""
    file: Annotated[str, Field(pattern=rf"^prefix/[0-9]{{1,6}}\.onnx{_END}")]
    """File that holds it."""
    bytes: Positive
    """Size of that file."""


class RouterSize(Open):
    """What the router takes of the trunk."""

    neurons: Count
    """Neurons that are the router's until the next task comes."""


class MultiplyAdds(Open):
    """What the layers multiply for one answer."""

    tasks: Count
    """All tasks with their heads."""
    router: Count
    """The router."""
    plain: Count
    """A plain network of the trunk with one head for all classes."""


class GraphNames(Closed):
    """Names of the graph's inputs and outputs."""

    inputs: Annotated[Many[Name], Field(min_length=3, max_length=3)]
    """The names for x, the pinned task and the threshold, in this order."""
    outputs: Annotated[Many[Name], Field(min_length=5, max_length=1000)]
    """The names of task, label, task_probs, label_probs and logits, in this order, then any others."""


class Image(Closed):
    """How a PNG or JPEG becomes an input."""

    mode: Literal["RGB", "L"]
    """Colours that it is converted to, as Pillow names them."""
    size: Annotated[Many[Annotated[int, Field(ge=1, le=1 << 16), WHOLE]], Field(min_length=2, max_length=2)]
    """Height and width in pixels."""
    resize: Literal["bilinear", "none"]
    """Filter for images of another size; none refuses them."""
    layout: Literal["CHW", "flat"]
    """Order of the numbers: channels first, or the same flattened."""
    scale: AboveZero
    """What each value from 0 to 255 is divided by."""


class Input(Open):
    """What every input looks like."""

    shape: Annotated[Many[Annotated[int, Field(ge=1, le=1 << 30), WHOLE]], Field(min_length=1, max_length=16)]
    """Shape of one instance, without the batch."""
    dtype: Literal["float32", "int64"]
    """Type of its elements."""
    low: Number | None = None
    """Least value that is accepted; null for any."""
    high: Number | None = None
    """Greatest value that is accepted; null for any."""
    mean: Many[Number] = ()
    """What the graph subtracts first: nothing, one number, or one for each channel."""
    std: Many[AboveZero] = ()
    """What the graph divides by then: nothing, one number, or one for each channel."""
    image: Maybe[Image] = None
    """How a PNG or JPEG becomes an input, where inputs are pictures; since 1.3.0."""


class Limits(Open):
    """What a server accepts."""

    max_instances: Positive
    """Most instances that one request may hold."""
    max_batch: Maybe[Positive] = None
    """Most requests that may be answered together; since 1.2.0."""
    max_pixels: Maybe[Positive] = None
    """Most pixels of an image before it is resized; since 1.3.0."""
    max_decoded_pixels: Maybe[Positive] = None
    """Most pixels of an image that are decoded, if not the usual number; since 1.3.2."""


class TaskReport(Open):
    """Accuracies on held-out data."""

    oracle: Share | None = None
    """With the task given."""
    routed: Share | None = None
    """With the task found by the network."""
    found: Share | None = None
    """Share of inputs whose task was found."""
    doubt: Maybe[Doubt] = None
    """Why training may have ended too early, if it may; since 1.3.2."""


class BundledPage(Open):
    """Owners that are computed together, and the room that there is for others."""

    slots: ByName[Count]
    """Neurons of each feature group, and classes, that may lie in it."""
    sources: Many[Count]
    """Numbers of the earlier pages that it reads."""
    owners: Annotated[Many[Name], Field(min_length=1)]
    """Whose they are so far, in the order in which they lie."""
    most: Positive
    """Most owners that may lie in it."""


class BundledTask(Open):
    """One task."""

    name: Name
    """The task's name: unique, printable, any script."""
    owner: Annotated[str, Field(pattern=rf"^[A-Za-z0-9_.-]{{1,64}}{_END}")]
    """Stable id of the block that answers, and the name of its inputs in probes.safetensors."""
    classes: Annotated[Many[Name], Field(min_length=1)]
    """Names of the classes in the order of the head's logits: unique in the task, printable, any script."""
    revision: Count = 0
    """Which revision of the task answers; the first is 0."""
    digest: Maybe[Sha256] = None
    """SHA-256 over the graph from the input to the head's logits (nested ONNX), of the elements that they \
depend on (paged ONNX); before 1.2.0 and in other graphs over what trained it."""
    neurons: Count
    """Neurons that the task owns."""
    network_digest: Maybe[Sha256] = None
    """SHA-256 over the task's blocks and head as the exporting network had them; since 1.2.0."""
    report: TaskReport = TaskReport()
    """Accuracies on held-out data, as shares of 1."""


class RoutingRule(Open):
    """How a task is chosen."""

    doubt: Maybe[Doubt] = None
    """Why the router's training may have ended too early, if it may; since 1.3.2."""
    rule: Maybe[Annotated[str, Field(max_length=64)]] = None
    """The same as decision, as it was called before 1.2.0."""
    decision: Maybe[Literal["hard", "joint", "entropy"]] = None
    """Taken is the task that is likeliest for the router, for router and head together, or whose head is \
surest; since 1.2.0."""
    router: Maybe[Literal["linear", "block", "taps", "moments", "experts", "none"]] = None
    """What tells the tasks apart; none where the heads alone do; since 1.2.0."""
    temperature: AboveZero = 1
    """What divides the tasks' log-probabilities, or where there is no router the heads' entropies; since \
1.2.0."""
    head_temperatures: Many[AboveZero] = ()
    """What divides each task's logits where the decision looks at them, in the order of tasks; empty for 1; \
since 1.2.0."""
    false_rejections: Maybe[Annotated[float, Field(ge=0, lt=1), AS_GIVEN]] = None
    """Share of validation inputs for which the threshold was chosen to answer none of mine; since 1.2.0."""
    calibration_error: Many[NotNegative] = ()
    """Expected calibration error of the task's probability on validation inputs, before and after; since \
1.2.0."""
    threshold: NotNegative = 0
    """Router confidence under which the answer is none of mine, unless a request names another."""


class Bundle(Open):
    """What a server has to know about an exported network."""

    model_config = ConfigDict(
        json_schema_extra={
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:eideticnet:bundle:{SCHEMA}",
            "$comment": "Minor versions may add properties where additionalProperties is true, and values of "
            "layout. The lookahead at the end of a pattern refuses a final newline, which some engines let $ "
            "pass over.",
            "if": {"properties": {"schema": {"pattern": r"^1\.[01]\."}}},
            "else": {
                "$comment": "What a proof needs; every bundle since 1.2.0 has it.",
                "required": list(_PROVABLE),
                "properties": {
                    "tasks": {"items": {"required": ["revision"]}},
                    "superseded": {"items": {"required": ["revision"]}},
                    "routing": {"required": list(_PROVABLE_ROUTING)},
                },
            },
        }
    )

    schema_version: str = Field(alias="schema", pattern=rf"^{_NUMBER}(\.{_NUMBER}){{2}}{_END}")
    """Semantic version of this contract; a reader of 1.x reads every 1.y. Since 1.5.0 an archive holds the \
handler's runtime as a folder."""
    name: Slug
    """The model's name, part of its URL and of the archive's file name."""
    model_version: Slug
    """The model's own version, written like a name."""
    format: Literal["onnx", "torchscript", "pt2"]
    """What kind of file the graph is."""
    model: Annotated[str, Field(pattern=rf"^[a-z0-9_-]{{1,64}}\.(onnx|pt|pt2){_END}")]
    """File that holds the graph, beside bundle.json."""
    files: Maybe[ByName[Sha256]] = None
    """SHA-256 in hexadecimal of every other file of the bundle, by name; written since 1.2.0."""
    prefixes: Many[Prefix] = ()
    """Graphs that run only what the first tasks own, for pinned requests; since 1.2.0."""
    layout: Maybe[Literal["nested", "paged", "dense"]] = None
    """One block at a time or pages (nested; paged, since 1.5.0), equal across versions, or as one (dense)."""
    pages: Many[BundledPage] = ()
    """Where tasks lie in the paged layout; later versions keep these pages and add to them; since 1.5.0."""
    precision: Maybe[Literal["float32", "float16", "bfloat16", "int8"]] = None
    """Type of the weights."""
    accuracy: Maybe[dict[str, Any]] = None
    """Report of what layout and precision cost, measured at export; free in form; since 1.2.0."""
    layout_measured: Maybe[dict[str, Any]] = None
    """What layout auto measured on the machine that exported: medians by batch size; since 1.2.0."""
    batch_dependent: bool = False
    """Whether an answer depends on what else is in its batch (dynamic int8); since 1.2.0."""
    neurons: Count
    """Neurons of the whole trunk, free ones included."""
    router: Maybe[RouterSize] = None
    """The router that decides beside the heads; since 1.4.0."""
    multiply_adds: Maybe[MultiplyAdds] = None
    """What the layers multiply for one answer, in the nested layout; since 1.4.0."""
    graph: GraphNames
    """Names of the graph's inputs and outputs."""
    input: Input
    """What every input looks like; the same for all tasks and versions of a network."""
    limits: Limits
    """What a server accepts."""
    tasks: Annotated[Many[BundledTask], Field(min_length=1)]
    """The tasks in the order of the graph's task indices."""
    classes: Annotated[Many[Name], Field(min_length=1)] = ()
    """Names of the classes of the label space that tasks share, in an order that later versions keep; left \
out where each task has its own labels; since 1.6.0."""
    superseded: Many[BundledTask] = ()
    """Revisions that no longer answer and stay in the graph, described like tasks; since 1.2.0."""
    routing: RoutingRule = RoutingRule()
    """How a task is chosen, and how its probabilities were calibrated."""
    tools: ByName[Annotated[str, Field(max_length=200)]] = Field(default_factory=dict)
    """Versions of what exported it."""

    @property
    def minor(self) -> int:
        """The minor version of the schema that it was written with."""
        return int(self.schema_version.split(".")[1])

    def numbers(self, task: int) -> tuple[int, ...]:
        """What an answer's label is for each class of the task of that index."""
        mine = self.tasks[task].classes
        if not self.classes:
            return tuple(range(len(mine)))
        places = {name: number for number, name in enumerate(self.classes)}
        return tuple(places[name] for name in mine)

    @property
    def held(self) -> list[BundledTask]:
        """Every revision of every task that the graph holds, whether or not it answers."""
        return [*self.tasks, *self.superseded]

    def to_json(self) -> str:
        """As it stands in a file: what was given, and nothing else."""
        return json.dumps(as_json(self), indent=1, ensure_ascii=False, sort_keys=True)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        problem = self._lacks() or names_problem((t.name, t.classes) for t in self.tasks)
        for task in self.superseded:
            problem = problem or names_problem([(task.name, task.classes)])
        if not problem and (again := twice(task.owner for task in self.held)):
            problem = f"two tasks have the owner {again!r}"
        problem = problem or self._shared_problem()
        if problem := problem or _image_problem(self.input):
            raise ValueError(problem)
        return self

    def _shared_problem(self) -> str:
        """What is wrong with the classes of a shared label space; "" if nothing is."""
        if not self.classes:
            return ""
        if self.minor < SHARED:
            return f"classes are shared since schema 1.{SHARED}.0, and this is {self.schema_version}"
        if again := twice(self.classes):
            return f"two classes are named {again!r}"
        mine = {name for task in self.held for name in task.classes}
        strange = sorted(mine.symmetric_difference(self.classes))
        return f"classes and those of the tasks differ in {strange[0]!r}" if strange else ""

    def _lacks(self) -> str:
        """What a proof needs and this lacks; "" if nothing, or if it is older than proofs."""
        needed = [(self, _PROVABLE, ""), (self.routing, _PROVABLE_ROUTING, "routing.")]
        needed += [(task, ("revision",), f"tasks[{i}].") for i, task in enumerate(self.tasks)]
        needed += [(task, ("revision",), f"superseded[{i}].") for i, task in enumerate(self.superseded)]
        given = [(at, keys, part.model_fields_set) for part, keys, at in needed]
        lacking = (f"{at}{key}" for at, keys, has in given for key in keys if key not in has)
        found = next(lacking, "") if self.minor >= 2 else ""
        return found and f"{found} is missing; expected: every bundle since 1.2.0 has it, for proofs"


def names_problem(tasks: Iterable[tuple[str, Iterable[str]]]) -> str:
    """What is wrong with the names of tasks and of their classes, given as pairs; "" if nothing is."""
    tasks = [(name, list(classes)) for name, classes in tasks]
    for text in (t for name, classes in tasks for t in (name, *classes)):
        if not is_name(text):
            shown = ascii(text[:LONGEST_NAME])
            return f"{shown} can't name a task or class: use up to {LONGEST_NAME} printable characters"
    if again := twice(name for name, _ in tasks):
        return f"two tasks are named {again!r}"
    for name, classes in tasks:
        if again := twice(classes):
            return f"task {name!r} has two classes named {again!r}"
    return ""


def is_name(text: str) -> bool:
    """Whether a task or a class may be called so.

    Names go into JSON answers, tables and terminals: any script, but nothing that can't be seen.
    ``str.isprintable`` refuses control characters, line ends, lone surrogates, and the marks that turn the
    direction of writing or take no width, with which one name could look like another.
    """
    return bool(text.strip()) and text.isprintable() and len(text) <= LONGEST_NAME


def twice(names: Iterable[str]) -> str:
    """A name that stands there twice, perhaps composed of other code points; "" if none does."""
    counts = Counter(unicodedata.normalize("NFC", name) for name in names)
    return next((name for name, count in counts.items() if count > 1), "")


def _image_problem(spec: Input) -> str:
    if spec.image is None:
        return ""
    shape = [{"RGB": 3, "L": 1}[spec.image.mode], *spec.image.size]
    expected = tuple(shape) if spec.image.layout == "CHW" else (math.prod(shape),)
    if (spec.shape, spec.dtype) == (expected, "float32"):
        return ""
    return f"input: an image becomes float32 of shape {list(expected)}, not what the input is"
