"""From a plain ``nn.Module`` to a program, by ``torch.export`` and the table of rules."""

from __future__ import annotations

import dataclasses
import operator
import warnings

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.parameter import is_lazy

from eideticnet.data.draws import tracing
from eideticnet.errors import TrunkWarning, UnsupportedError
from eideticnet.program import HEAD, INPUT, Features, Program, Run, Step
from eideticnet.rules import RULES, is_learned, rule_for
from eideticnet.rules.calls import BARE, Call, Constant, shape_of, writes
from eideticnet.rules.groups import Groups, Layouts, Retrace
from eideticnet.rules.narrow import ChooseRule
from eideticnet.seeding import seeded
from eideticnet.trace.asked import exported_asking, in_both_modes, plain_attributes
from eideticnet.trace.computed import is_layer, made_of, sources
from eideticnet.trace.constants import fold
from eideticnet.trace.exported import live, tensors_of
from eideticnet.trace.modes import Modes
from eideticnet.trace.normal import as_named, fixed
from eideticnet.trace.selfcheck import ROWS, check_program
from eideticnet.trace.unwrapping import unwrapped
from eideticnet.trace.views import Memory, base

MOST_RETRACES = 1000


def trace(trunk: nn.Module, example: Tensor, rows: Tensor | None = None) -> Program:
    """The program of ``trunk``, which maps ``example`` (N, ...) to features (N, F).

    It is tried on normalised ``rows`` (5, ...), by default random ones like ``example``. Raises
    ``UnsupportedError`` that names operation and layer where no rule holds, or a trial fails.
    """
    trunk = unwrapped(trunk)
    try:
        with tracing():
            return _traced(trunk, example, rows)
    except UnsupportedError as error:
        if list(trunk.children()):
            raise
        words = str(error).replace("layer '0'", "the trunk's forward").replace("'0.", "'")
        raise UnsupportedError(words) from error


def _traced(trunk: nn.Module, example: Tensor, rows: Tensor | None) -> Program:
    for name, weight in trunk.named_parameters():
        if not is_lazy(weight) and not weight.numel():
            raise UnsupportedError(
                f"the trunk's {name} has shape {tuple(weight.shape)}, in which nothing can be learned; give "
                "every layer a neuron or more"
            )
    with seeded("trace"):  # what is built draws initial weights; what torch traces would show the numbers
        named = as_named(trunk)
        rows = _like(example) if rows is None else rows
    graph, modes, before = exported_asking(named, example)
    try:
        modes = modes or in_both_modes(named, example, graph)
    except UnsupportedError:
        _walked(named, graph, Modes())  # may know a better reason
        raise
    program = _walked(named, graph, modes)
    check_program(program, trunk, graph, rows, not modes.lost)
    counted = [
        f"forward changes {name!r} of the trunk; a block keeps what it was when the trunk was traced"
        for name, value in plain_attributes(named).items()
        if value != before.get(name, value)
    ]
    for problem in dict.fromkeys([*modes.lost, *counted, *_frozen(trunk)]):
        warnings.warn(problem, TrunkWarning, stacklevel=4)
    return program


def _frozen(trunk: nn.Module) -> list[str]:
    constants = fixed(trunk)
    frozen = [n for n, w in trunk.named_parameters() if not w.requires_grad and n not in constants]
    if not frozen:
        return []
    more = f" and {len(frozen) - 1} more" if len(frozen) > 1 else ""
    return [
        f"{frozen[0]!r}{more} of the trunk has requires_grad=False: that holds for a first task with "
        "pretrained=trunk; every other block starts from fresh weights, and learns them"
    ]


def _like(example: Tensor) -> Tensor:
    """Random inputs; integers are some of those that are there, at the same places."""
    if example.is_floating_point():
        return torch.randn(ROWS, *example.shape[1:], dtype=example.dtype)
    chosen = torch.randint(len(example), (ROWS, *example.shape[1:]))
    return example.gather(0, chosen)


def _walked(trunk: nn.Module, graph: ExportedProgram, modes: Modes) -> Program:
    memory, refused = Memory(graph.graph), list[tuple[int, UnsupportedError]]()
    program = _walked_in(Layouts(), trunk, graph, modes, memory, refused)
    if (program is None or _is_one_neuron(program)) and memory.shuffles:
        again = _walked_in(Layouts(shuffled=True), trunk, graph, modes, memory, refused)
        program = again or program
    if program is None:
        raise max(refused, key=operator.itemgetter(0))[1]  # of the walk that came furthest
    return program


def _is_one_neuron(program: Program) -> bool:
    """Whether the many columns of a layer are all one neuron."""
    runs = {(r.group, r.repeat * s.features.tile) for s in program.steps for r in s.features.runs if s.layer}
    return any(n > 1 and program.groups.get(group) == 1 for group, n in runs)


def _walked_in(
    layouts: Layouts,
    trunk: nn.Module,
    graph: ExportedProgram,
    modes: Modes,
    memory: Memory,
    refused: list[tuple[int, UnsupportedError]],
) -> Program | None:
    """The program, with what later operations tell of earlier ones; None after adding to ``refused``."""
    for _ in range(MOST_RETRACES):
        walk = _Walk(trunk, graph, modes, layouts, memory)
        try:
            return walk.program()
        except Retrace:
            continue
        except UnsupportedError as error:
            refused.append((len(walk.steps), error))
            if layouts.single <= layouts.shared:
                break
            layouts = Layouts(shared=frozenset(layouts.single), shuffled=layouts.shuffled)
    else:
        told = "the trunk's features can't be divided into neurons; simplify its reshapes"
        refused.append((0, UnsupportedError(told)))
    return None


class _Walk:
    """One walk through an exported graph, in order of execution."""

    def __init__(
        self, trunk: nn.Module, exported: ExportedProgram, modes: Modes, layouts: Layouts, memory: Memory
    ) -> None:
        self.trunk, self.graph, self.modes, self.memory = trunk, exported.graph, modes, memory
        self.weights, self.tensors = tensors_of(exported), {**exported.state_dict, **exported.constants}
        self.tensors |= {name: self.tensors[name].detach() for name in fixed(trunk)}
        self.groups, self.apart = Groups(layouts), layouts.apart
        self.steps: list[Step] = []
        self.values: dict[Node, tuple[str, Features]] = {}
        self.made: dict[Node, tuple[str, Features]] = {}
        self.batch = ""

    def program(self) -> Program:
        """The steps with every group named by its root, and the head as the last one."""
        nodes, output = live(self.graph)
        for node in nodes:
            if node.op == "placeholder" and node.name not in self.weights:
                if self.values:
                    raise UnsupportedError("the trunk takes more than one input; give it exactly one")
                self.values[node] = INPUT, Features()
                self.batch = str(node.meta["val"].shape[0])
            elif node.op == "call_function" and "sym" not in str(node.target):
                self._refuse_side_effects(node)
                self._visit(node)
        head = _head(*self._output(output))
        _check_names(self.steps, self.apart)
        resolved = [dataclasses.replace(s, features=self.groups.resolve(s.features)) for s in self.steps]
        return Program((*resolved, head), self.groups.widths())

    def _visit(self, node: Node) -> None:
        """Append the steps of one operation; an in-place one becomes its functional twin."""
        if self.groups.layouts.shuffled and self._selects(node):
            return
        source, index = node, None
        if node.target is operator.getitem:
            (source,), index = node.all_input_nodes, int(node.args[1])  # type: ignore[arg-type]
        elif isinstance(node.meta.get("val"), list | tuple):
            return  # its outputs are visited one by one
        embeds = str(source.target) == "aten.embedding.default"  # positions, say
        new = ".new_" in str(source.target) and fold(source, self.weights, self.tensors) is not None
        if new or (not embeds and not any(n in self.values for n in source.all_input_nodes)):
            self._visit_constant(node)
            return
        operation = str(source.target)
        packet, _, overload = operation.removeprefix("aten.").partition(".")
        changed = source.all_input_nodes[0]
        if writes(source) and changed in self.values:
            operation = f"aten.{packet[:-1]}.{overload}"
            self.memory.refuse_views(changed, node)
        call = self._call(source, operation, self._while_training(source), node.name, index)
        step = rule_for(call).trace(call, self.groups)
        self.steps += [*call.extra, step]
        self.values[node] = step.name, step.features
        if operation != str(source.target):  # later reads of what was written to read this instead
            self.values[changed] = self.values[node]

    def _selects(self, node: Node) -> bool:
        """Whether ``node`` is one of several that shuffle channels; the last of them appends the step."""
        selected, inner = self.memory.selections
        source, dim, columns = selected.get(node, (None, 0, []))
        if source not in self.values:
            return node in inner
        values = self.values | dict.fromkeys(node.all_input_nodes, self.values[source])
        call = dataclasses.replace(self._call(node, str(node.target), values, node.name), source=source)
        step = ChooseRule().of(call, self.groups, dim, columns)
        self.steps += [*call.extra, step]
        self.values[node] = step.name, step.features
        return True

    def _call(
        self,
        node: Node,
        operation: str,
        values: dict[Node, tuple[str, Features]],
        name: str,
        index: int | None = None,
    ) -> Call:
        constants = {
            n: dataclasses.replace(found, shown_by=None) if found.parameter in self.apart else found
            for n in node.all_input_nodes
            if n not in values and (found := fold(n, self.weights, self.tensors)) is not None
        }
        twin = self.modes.twins.get(node, node)
        return Call(
            node, operation, self.trunk, self.weights, values, constants, name, twin, self._computed, index
        )

    def _computed(self, call: Call, node: Node, features: Features) -> str:
        """The name of a constant that is computed from parameters; where its neurons lie, each owner has its
        own columns of them."""
        if node not in self.made:
            dim = None if features.raw else features.dim
            try:
                read = sources(node, dim, self.weights, self.tensors)
            except (LookupError, RuntimeError):
                raise self._not_computed(call, node) from None
            before, nodes = self.values, made_of(node, self.weights, self.tensors)
            self.values = {n: self.made[n] for n in nodes if n in self.made}
            for parameter, along in read.items():
                self._learned(parameter, Features() if along is None else features.at(along))
            for n, known in nodes.items():
                if n.op == "call_function" and known is None and n not in self.values:
                    self._visit_computed(n)
            self.made |= self.values
            self.values = before
        if node not in self.made:
            raise self._not_computed(call, node)
        name, made = self.made[node]
        if made.raw != features.raw or not (made.raw or self.groups.join(features, made)):
            raise self._not_computed(call, node)
        return name

    def _learned(self, node: Node, features: Features) -> None:
        """A step that gives a parameter as it is, divided among the owners of ``features``."""
        path = self.weights[node.name]
        value = Constant(self.tensors[path].detach(), path, "")
        before = self.made.get(node, (node.name, features))
        if before[1].dim == features.dim and before[1].raw == features.raw:
            self.values[node] = before
        if node not in self.made:
            self.steps.append(Step(node.name, "parameter", (), features, path, value.as_parameter()))

    def _visit_computed(self, node: Node) -> None:
        """An operation on parameters; a layer among them may also read a constant."""
        first = node.args[0] if node.args else None
        if is_layer(node) and isinstance(first, Node) and first not in self.values:
            call = self._call(node, str(node.target), self.values, node.name)
            if first in call.constants and call.constants[first].parameter is None:
                name = call.constant(first, Features())
                self.steps += call.extra
                self.values = {**self.values, first: (name, Features())}
        self._visit(node)

    def _not_computed(self, call: Call, node: Node) -> UnsupportedError:
        parameter = call.constants[node].parameter
        if parameter in self.apart:
            return _in_two_places("parameter", str(parameter))
        return call.refuse(f"reads a value computed from the parameter {parameter!r}", BARE)

    def _visit_constant(self, node: Node) -> None:
        """A constant is folded into the operation that reads it; only a parameter that a layer reads is a
        value."""
        constant = fold(node, self.weights, self.tensors) if is_learned(node) else None
        rows = [str(n) for n in shape_of(node) if isinstance(n, torch.SymInt)] if constant else []
        if constant is not None and constant.shown_by is not None and rows == [self.batch]:
            call = self._call(node, str(node.target), {}, node.name)
            call = dataclasses.replace(call, constants={node: constant})
            self.steps.append(RULES["learned"].trace(call, self.groups))
            self.values[node] = node.name, self.steps[-1].features

    def _refuse_side_effects(self, node: Node) -> None:
        """What writes into a tensor of the trunk would have to do so in every block."""
        if writes(node) and (name := self.weights.get(base(node).name)) is not None:
            raise UnsupportedError(
                f"{node.target} writes into {name!r}, a tensor of the trunk (node {node.name}); use a new "
                "tensor, and max_norm=None in an embedding"
            )

    def _while_training(self, reader: Node) -> dict[Node, tuple[str, Features]]:
        """The values as ``reader`` sees them, some of which are changed only while the trunk trains."""
        values = dict(self.values)
        for node in reader.all_input_nodes:
            calls = self.modes.inserted.get((reader, node))
            if calls is not None and node in values:
                (before, features), name = values[node], f"{node.name}_for_{reader.name}"
                self.steps.append(Step(name, "training", (before,), features, None, {"calls": calls}))
                values[node] = name, features
        return values

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
            none = values[0] in self.values and self.values[values[0]][0] != INPUT
            how = "treats each channel of its input by itself" if none else "returns its input"
            of_all = " of all channels, nn.Linear, or nn.Conv2d with groups=1" if none else ""
            raise UnsupportedError(f"the trunk {how}: it needs at least one layer{of_all}")
        return self._while_training(node)[values[0]]


def _head(output: str, features: Features) -> Step:
    if features.dim != -1:
        raise UnsupportedError("the trunk's features lie along the batch; return (N, F)")
    return Step(HEAD, "linear", (output,), Features(-1, (Run(HEAD),)), HEAD, {"bias": True, "raw_columns": 0})


def _differ(a: Step, b: Step) -> bool:
    """Whether two uses of one layer are not the same layer; a parameter also has to lie alike."""
    alike = a.rule == b.rule and a.options == b.options
    return not alike or (a.rule == "parameter" and a.features != b.features)


def _in_two_places(what: str, path: str) -> UnsupportedError:
    return UnsupportedError(f"{what} {path!r} is used in two shapes or places; make it two")


def _check_names(steps: list[Step], apart: set[str]) -> None:
    """Blocks store ``a.b`` as ``a__b`` and their own head beside the trunk's layers."""
    shown: dict[str, Step] = {}
    for step in steps:
        if step.layer and _differ(shown.setdefault(step.layer, step), step):
            what = "parameter" if step.rule == "parameter" else "layer"
            if what == "parameter" == shown[step.layer].rule and step.layer not in apart:
                apart.add(step.layer)
                raise Retrace
            raise _in_two_places(what, step.layer)
    for path in (path for path, step in shown.items() if step.rule in ("parameter", "learned")):
        owner, _, name = path.rpartition(".")
        if owner in shown and name in RULES[shown[owner].rule].axes:
            raise UnsupportedError(f"the trunk uses {path!r} beside layer {owner!r}; give it its own")
    if len({path.replace(".", "__") for path in shown} | {HEAD}) <= len(shown):
        raise UnsupportedError(f"two layers among {sorted(shown)} or {HEAD!r} collide; rename one")
