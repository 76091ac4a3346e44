"""From a plain ``nn.Module`` to a program, by ``torch.export`` and the table of rules."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from eideticnet.calls import Call, Groups
from eideticnet.errors import UnsupportedError
from eideticnet.program import HEAD, INPUT, Features, Program, Run, Step
from eideticnet.rules import rule_for


def trace(trunk: nn.Module, example: Tensor) -> Program:
    """The program of ``trunk``, which maps ``example`` (N, ...) to features (N, F).

    Raises ``UnsupportedError`` that names operation and layer where no rule holds.
    """
    if not list(trunk.children()):
        trunk = nn.Sequential(trunk)  # a trunk that is one layer needs a name for it
    exported = _export(trunk, example)
    signature = exported.graph_signature
    weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    groups, steps = Groups(), list[Step]()
    current: dict[str, str] = {}
    features: dict[str, Features] = {}
    output = ""
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name not in weights:
            if features:
                raise UnsupportedError("the trunk takes more than one input; give it exactly one")
            current[node.name], features[INPUT] = INPUT, Features()
        elif node.op == "call_function" and "sym" not in str(node.target):
            call = _call(node, trunk, weights, current, features)
            step = rule_for(call).trace(call, groups)
            steps.append(step)
            current[node.name], features[node.name] = node.name, step.features
        elif node.op == "output":
            output = _single_output(node, current)
    head = _head(output, features)
    _check_names(steps)
    resolved = [dataclasses.replace(s, features=groups.resolve(s.features)) for s in steps]
    return Program((*resolved, head), groups.widths())


def _export(trunk: nn.Module, example: Tensor) -> ExportedProgram:
    trunk = copy.deepcopy(trunk).eval()
    example = torch.cat([example, example])[:2]  # one instance would be exported as a constant
    shape = tuple(example.shape)
    try:
        with torch.no_grad():  # torch.export logs stack traces of what fails; this fails in a line
            trunk(example)
    except Exception as error:
        raise UnsupportedError(f"the trunk can't run on an input of shape {shape}: {error}") from error
    try:
        return torch.export.export(trunk, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    except Exception as error:
        raise UnsupportedError(f"torch.export can't trace the trunk for any batch size: {error}") from error


def _call(
    node: Node,
    trunk: nn.Module,
    weights: dict[str, str],
    current: dict[str, str],
    features: dict[str, Features],
) -> Call:
    """Describe ``node``; an in-place operation becomes its functional twin."""
    operation = str(node.target)
    inputs = [n for n in node.all_input_nodes if n.name in current]
    names = tuple(current[n.name] for n in inputs)
    _, _, rest = operation.partition(".")
    packet, _, overload = rest.partition(".")
    if packet.endswith("_") and inputs:
        operation = f"aten.{packet[:-1]}.{overload}"
        _rename_after_in_place(inputs[0], node, current)
    return Call(node, operation, names, tuple(features[n] for n in names), trunk, weights)


def _rename_after_in_place(changed: Node, by: Node, current: dict[str, str]) -> None:
    """Whoever reads ``changed`` from now on reads what the in-place operation ``by`` wrote."""
    earlier_views = [user for user in changed.users if _is_view(user) and user.name in current]
    if earlier_views or (_is_view(changed) and len(changed.all_input_nodes[0].users) > 1):
        raise UnsupportedError(
            f"{by.target} writes into a value of which there is a view (node {by.name}); "
            "use the operation that returns a new tensor"
        )
    current[changed.name] = by.name


def _is_view(node: Node) -> bool:
    return any(word in str(node.target) for word in ("view", "reshape", "flatten"))


def _single_output(node: Node, current: dict[str, str]) -> str:
    (values,) = node.args
    if not isinstance(values, tuple) or len(values) != 1 or not isinstance(values[0], Node):
        raise UnsupportedError("the trunk must return exactly one tensor of features (N, F)")
    if values[0].meta["val"].ndim != 2:
        shape = tuple(values[0].meta["val"].shape)
        raise UnsupportedError(f"the trunk returns features of shape {shape}; flatten them to (N, F)")
    return current[values[0].name]


def _head(output: str, features: dict[str, Features]) -> Step:
    if output not in features or features[output].raw:
        raise UnsupportedError("the trunk returns its input: it needs at least one layer")
    return Step(HEAD, "linear", (output,), Features(1, (Run(HEAD),)), HEAD, {"bias": True, "raw_columns": 0})


def _check_names(steps: list[Step]) -> None:
    """Blocks store ``a.b`` as ``a__b`` and their own head beside the trunk's layers."""
    paths = {s.layer for s in steps if s.layer}
    if len({p.replace(".", "__") for p in paths} | {HEAD}) <= len(paths):
        raise UnsupportedError(f"two layers among {sorted(paths)} or {HEAD!r} collide; rename one")
