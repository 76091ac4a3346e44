"""From a plain ``nn.Module`` to a program, by ``torch.export`` and the table of rules."""

from __future__ import annotations

import dataclasses
import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from eideticnet.calls import Call, writes
from eideticnet.constants import fold
from eideticnet.errors import UnsupportedError
from eideticnet.groups import Groups, Layouts, Retrace
from eideticnet.normal import SelfAttention, normal_form
from eideticnet.program import HEAD, INPUT, Features, Program, Run, Step
from eideticnet.rules import RULES, rule_for
from eideticnet.users_code import blame, theirs

MOST_RETRACES = 1000
_VIEWS = (
    *("view", "reshape", "flatten", "transpose", "permute", "select", "slice", "squeeze", "expand"),
    *(
        "narrow",
        "chunk",
        "split",
        "unbind",
        "alias",
        "detach",
        "getitem",
        "contiguous",
        ".t.",
        "aten.to.",
        "dropout",
    ),
)


def trace(trunk: nn.Module, example: Tensor) -> Program:
    """The program of ``trunk``, which maps ``example`` (N, ...) to features (N, F).

    Raises ``UnsupportedError`` that names operation and layer where no rule holds.
    """
    trunk = as_named(trunk)
    exported = _export(trunk, example)
    layouts = Layouts()
    for _ in range(MOST_RETRACES):
        try:
            return _Walk(trunk, exported, layouts).program()
        except Retrace:
            continue
    raise UnsupportedError("the trunk's features can't be divided into neurons; simplify its reshapes")


def as_named(trunk: nn.Module) -> nn.Module:
    """The trunk in normal form, with a name for each layer, as blocks know them."""
    if not list(trunk.children()):
        trunk = nn.Sequential(trunk)  # a trunk that is one layer needs a name for it
    try:
        return normal_form(trunk).eval()
    except RuntimeError as error:
        raise UnsupportedError(
            "the trunk can't be copied, which training needs; where weights are computed (weight_norm), use "
            f"remove_weight_norm first: {str(error).splitlines()[0]}"
        ) from error


def _export(trunk: nn.Module, example: Tensor) -> ExportedProgram:
    example = torch.cat([example, example])[:2]  # one instance would be exported as a constant
    shape = tuple(example.shape)
    for module in trunk.modules():
        if isinstance(module, SelfAttention):
            module.tells_dropout = True
    try:
        with torch.no_grad():  # torch.export logs stack traces of what fails; this fails in a line
            trunk(example)
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(f"the trunk can't run on an input of shape {shape}: {blame(error)}") from error
    try:
        with (
            _unheard(),
            torch.enable_grad(),
        ):  # without, an encoder layer takes a shortcut that is one operation
            return torch.export.export(trunk, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    except GuardOnDataDependentSymNode as error:
        raise UnsupportedError(
            f"torch.export can't trace {theirs(error)}: what the trunk does depends on the values of its "
            "input, as in `if x.sum() > 0`; compute both and choose with torch.where"
        ) from error
    except Exception as error:
        raise UnsupportedError(
            f"torch.export can't trace the trunk for any batch size: {blame(error)}"
        ) from error


@contextmanager
def _unheard() -> Iterator[None]:
    """torch.export logs and prints graphs and stacks of what fails; here it fails in a line."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


class _Walk:
    """One walk through an exported graph, in order of execution."""

    def __init__(self, trunk: nn.Module, exported: ExportedProgram, layouts: Layouts) -> None:
        self.trunk, self.graph = trunk, exported.graph
        signature = exported.graph_signature
        self.weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensors = {**exported.state_dict, **exported.constants}
        self.weights |= signature.inputs_to_lifted_tensor_constants
        self.groups = Groups(layouts)
        self.steps: list[Step] = []
        self.values: dict[Node, tuple[str, Features]] = {}
        self.batch = ""

    def program(self) -> Program:
        """The steps with every group named by its root, and the head as the last one."""
        live, output = _live(self.graph.nodes)
        for node in live:
            if node.op == "placeholder" and node.name not in self.weights:
                if self.values:
                    raise UnsupportedError("the trunk takes more than one input; give it exactly one")
                self.values[node] = INPUT, Features()
                self.batch = str(node.meta["val"].shape[0])
            elif node.op == "call_function" and "sym" not in str(node.target):
                self._refuse_side_effects(node)
                self._visit(node)
        head = _head(*self._output(output))
        _check_names(self.steps)
        resolved = [dataclasses.replace(s, features=self.groups.resolve(s.features)) for s in self.steps]
        return Program((*resolved, head), self.groups.widths())

    def _visit(self, node: Node) -> None:
        """Append the steps of one operation; an in-place one becomes its functional twin."""
        source, index = node, None
        if node.target is operator.getitem:
            (source,), index = node.all_input_nodes, int(node.args[1])  # type: ignore[arg-type]
        elif isinstance(node.meta.get("val"), list | tuple):
            return  # its outputs are visited one by one
        is_layer = str(source.target) == "aten.embedding.default"  # of positions, say
        if not is_layer and not any(n in self.values for n in source.all_input_nodes):
            return  # a constant, folded by whoever reads it
        operation = str(source.target)
        packet, _, overload = operation.removeprefix("aten.").partition(".")
        constants = {
            n: found
            for n in source.all_input_nodes
            if n not in self.values and (found := fold(n, self.weights, self.tensors)) is not None
        }
        changed = source.all_input_nodes[0]
        if writes(source) and changed in self.values:
            operation = f"aten.{packet[:-1]}.{overload}"
            self._refuse_views(changed, node)
        call = Call(source, operation, self.trunk, self.weights, self.values, constants, node.name, index)
        step = rule_for(call).trace(call, self.groups)
        self.steps += [*call.extra, step]
        self.values[node] = step.name, step.features
        if operation != str(source.target):  # whoever reads what was written to reads this from now on
            self.values[changed] = self.values[node]

    def _refuse_side_effects(self, node: Node) -> None:
        """What writes into a tensor of the trunk would have to do so in every block."""
        if writes(node) and (name := self.weights.get(_base(node).name)) is not None:
            raise UnsupportedError(
                f"{node.target} writes into {name!r}, a tensor of the trunk (node {node.name}); use a new "
                "tensor, and max_norm=None in an embedding"
            )

    def _refuse_views(self, changed: Node, by: Node) -> None:
        """Nobody may read the memory that ``by`` writes to under another name than ``changed``."""
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        others = [n for n in self.graph.nodes if n not in (changed, by) and _base(n) is _base(changed)]
        before = [n for n in others if order[n] < order[by]]
        if any(order[user] > order[by] for n in before for user in n.users):
            raise UnsupportedError(
                f"{by.target} writes into a value of which there is a view (node {by.name}); "
                "use the operation that returns a new tensor"
            )

    def _output(self, node: Node) -> tuple[str, Features]:
        (values,) = node.args
        if not isinstance(values, tuple) or len(values) != 1 or not isinstance(values[0], Node):
            raise UnsupportedError("the trunk must return exactly one tensor of features (N, F)")
        if str(values[0].meta["val"].shape[0]) != self.batch:
            raise UnsupportedError("the trunk returns another number of rows than it was given")
        if values[0].meta["val"].ndim != 2:
            shape = tuple(values[0].meta["val"].shape)
            raise UnsupportedError(f"the trunk returns features of shape {shape}; flatten them to (N, F)")
        if values[0] not in self.values or self.values[values[0]][1].raw:
            raise UnsupportedError("the trunk returns its input: it needs at least one layer")
        return self.values[values[0]]


def _live(nodes: torch.fx.graph._node_list) -> tuple[list[Node], Node]:
    """The nodes that the output depends on, in order, and the output itself."""
    needed, output = set[Node](), next(n for n in nodes if n.op == "output")
    waiting = [output, *_in_place(nodes)]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return [n for n in nodes if n in needed or n.op == "placeholder"], output


def _in_place(nodes: torch.fx.graph._node_list) -> Iterator[Node]:
    yield from (node for node in nodes if writes(node))


def _base(node: Node) -> Node:
    """The value whose memory ``node`` shows, as far as names tell; dropout that is off shows its input."""
    while node.op == "call_function" and node.all_input_nodes and (_is_view(node) or writes(node)):
        node = node.all_input_nodes[0]
    return node


def _is_view(node: Node) -> bool:
    return any(word in str(node.target) for word in _VIEWS)


def _head(output: str, features: Features) -> Step:
    if features.dim != -1:
        raise UnsupportedError("the trunk's features lie along the batch; return (N, F)")
    return Step(HEAD, "linear", (output,), Features(-1, (Run(HEAD),)), HEAD, {"bias": True, "raw_columns": 0})


def _differ(a: Step, b: Step) -> bool:
    """Whether two uses of one layer are not the same layer; a parameter also has to lie alike."""
    alike = a.rule == b.rule and a.options == b.options
    return not alike or (a.rule == "parameter" and a.features != b.features)


def _check_names(steps: list[Step]) -> None:
    """Blocks store ``a.b`` as ``a__b`` and their own head beside the trunk's layers."""
    shown: dict[str, Step] = {}
    for step in steps:
        if step.layer and _differ(shown.setdefault(step.layer, step), step):
            what = "parameter" if step.rule == "parameter" else "layer"
            raise UnsupportedError(f"{what} {step.layer!r} is used in two shapes or places; make it two")
    for path in (path for path, step in shown.items() if step.rule == "parameter"):
        owner, _, name = path.rpartition(".")
        if owner in shown and name in RULES[shown[owner].rule].axes:
            raise UnsupportedError(f"the trunk uses {path!r} beside layer {owner!r}; give it its own")
    if len({path.replace(".", "__") for path in shown} | {HEAD}) <= len(shown):
        raise UnsupportedError(f"two layers among {sorted(shown)} or {HEAD!r} collide; rename one")
