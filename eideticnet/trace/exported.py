"""The graph that ``torch.export`` makes of a trunk, and how it is run, operation by operation."""

from __future__ import annotations

import logging
import operator
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from inspect import Parameter, signature
from io import StringIO
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from eideticnet.data.draws import process_alone
from eideticnet.errors import UnsupportedError
from eideticnet.rules.calls import writes
from eideticnet.seeding import seeded
from eideticnet.users_code import blame, theirs

RUNS, REST = 3, 0.05
"""Of a forward that seems to draw, and the seconds after them."""


def tried(trunk: nn.Module, example: Tensor) -> None:
    """Raise ``UnsupportedError`` unless the trunk makes one tensor of two rows, in the mode that it is in,
    with random numbers from torch alone. Export would log stack traces of what fails."""
    example = _two(example)
    buffers = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    try:
        with torch.no_grad(), seeded("forward"):
            out = _with_torchs_numbers_alone(lambda: functional_call(trunk, buffers, (example,)))
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"the trunk can't run on an input of shape {tuple(example.shape)}{_mode(trunk)}: {blame(error)}"
        ) from error
    if not isinstance(out, Tensor):
        raise UnsupportedError(
            f"the trunk returns a {type(out).__name__}{_mode(trunk)}; "
            "it must return exactly one tensor of features (N, F)"
        )


def _rows_of(trunk: nn.Module) -> tuple[Any, ...]:
    """Which sizes of the arguments of ``forward`` may be any: the rows."""
    (first, *_), rows = signature(trunk.forward).parameters.values(), {0: Dim("batch")}
    return ((rows,),) if first.kind is Parameter.VAR_POSITIONAL else (rows,)  # of wrappers


def exported(trunk: nn.Module, example: Tensor) -> ExportedProgram:
    """The trunk's graph for any number of rows, in the mode that the trunk is in."""
    example = _two(example)
    try:
        # Without gradients, torch's encoder layer takes a shortcut that is one operation.
        with _unheard(), _known_momentum(trunk), torch.enable_grad():
            graph = torch.export.export(trunk, (example,), dynamic_shapes=_rows_of(trunk), strict=False)
    except GuardOnDataDependentSymNode as error:
        raise UnsupportedError(
            f"torch.export can't trace {theirs(error)}: what the trunk does{_mode(trunk)} depends on the "
            "values of its input, as in `if x.sum() > 0`; compute both and choose with torch.where"
        ) from error
    except UnsupportedError:
        raise
    except Exception as error:
        if "Constraints violated" in str(error):
            raise UnsupportedError(
                f"the trunk takes the number of rows for a fixed number{_mode(trunk)}; in shapes use "
                "x.shape[0] instead of len(x) or int(...), in what is computed no number of rows at all, "
                "x.view(x.shape[0], -1) instead of numbers, no loop over rows, and "
                "batch_first=True where a layer takes sequences"
            ) from error
        raise UnsupportedError(
            f"torch.export can't trace the trunk for any batch size{_mode(trunk)}: {blame(error)}"
        ) from error
    _flatten(graph.graph_module)
    return graph


def _two(example: Tensor) -> Tensor:
    return torch.cat([example, example])[:2]  # one instance would be exported as a constant


def _mode(trunk: nn.Module) -> str:
    return " while it trains" if trunk.training else ""


def _with_torchs_numbers_alone(forward: Callable[[], Any]) -> Any:
    """What ``forward`` gives; refused if it draws from generators that no seed given here decides, which are
    put back. It does if they move each time that it runs, and don't while it rests: then another thread
    draws, and what ``forward`` does is held against its graph later."""
    with process_alone():
        before = _elsewhere()
        for _ in range(RUNS):
            try:
                out = forward()
            finally:
                moved = _told(_elsewhere()) != _told(before)
                if moved:
                    random.setstate(before[0])
                    np.random.set_state(before[1])
            if not moved:
                return out
        time.sleep(REST)
        if _told(_elsewhere()) != _told(before):
            return out
    raise UnsupportedError("forward draws random numbers from Python or numpy; use torch's")


def _elsewhere() -> tuple[Any, Any]:
    """The states of Python's and numpy's global generators."""
    return random.getstate(), np.random.get_state(legacy=False)


def _told(states: tuple[Any, Any]) -> Any:
    """The states as something that can be compared."""
    return tree_map(lambda x: x.tobytes() if isinstance(x, np.ndarray) else x, states)


@contextmanager
def _known_momentum(trunk: nn.Module) -> Iterator[None]:
    """A batch norm that averages over all batches asks how many there were, which no graph can know."""
    norms = [m for m in trunk.modules() if isinstance(m, _BatchNorm) and m.momentum is None]
    try:
        for norm in norms:
            norm.momentum = 0.1
        yield
    finally:
        for norm in norms:
            norm.momentum = None


def _flatten(module: torch.fx.GraphModule) -> None:
    """Put the parts that run without gradients, or without autocast, in their places."""
    for node in list(module.graph.nodes):
        if not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        *settings, body = [a for a in node.args if not isinstance(a, Node) or a.op == "get_attr"]
        kind, on = node.target.name(), settings[0] if len(settings) == 1 else settings[2]
        if kind not in ("wrap_with_set_grad_enabled", "wrap_with_autocast") or (len(settings) > 1 and on):
            raise UnsupportedError(
                f"{kind} in forward (node {node.name}) is not supported; compute in float32"
            )
        inner = getattr(module, str(body.target))
        _flatten(inner)
        operands = iter(node.args[len(settings) + 1 :])
        values: dict[Node, Any] = {}
        with module.graph.inserting_before(node):
            for step in inner.graph.nodes:
                if step.op == "placeholder":
                    values[step] = next(operands)
                elif step.op != "output":
                    values[step] = module.graph.node_copy(step, values.__getitem__)
        results = inner.graph.output_node().args[0]
        for part in list(node.users):
            value = values[results[part.args[1]]]
            if not on and len(settings) == 1:
                with module.graph.inserting_before(part):
                    value = module.graph.call_function(torch.ops.aten.detach.default, (value,))
                    value.meta = dict(part.meta)
            part.replace_all_uses_with(value)
            module.graph.erase_node(part)
        module.graph.erase_node(node)


@contextmanager
def _unheard() -> Iterator[None]:
    """torch.export logs and prints graphs and stacks of what fails; here it fails in a line. What other
    threads say meanwhile, and what the trunk logs, is heard."""
    mine, others = threading.get_ident(), _Others(sys.stderr)

    def is_heard(record: logging.LogRecord) -> bool:
        ours = record.thread == mine and record.name.startswith("torch")
        return not ours or record.levelno > logging.WARNING

    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {h for logger in loggers if isinstance(logger, logging.Logger) for h in logger.handlers}
    handlers |= {logging.lastResort} if logging.lastResort else set()
    for handler in handlers:
        handler.addFilter(is_heard)
    try:
        with redirect_stderr(others):
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_heard)


class _Others(StringIO):
    """A stream to which all threads but the one that made this write."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._mine = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._mine else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def tensors_of(graph: ExportedProgram) -> dict[str, str]:
    """Dotted names of the trunk's parameters, buffers and constants, by placeholder."""
    signature = graph.graph_signature
    return {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }


def live(graph: Graph) -> tuple[list[Node], Node]:
    """The nodes that the output depends on, in order, and the output itself."""
    needed, output = set[Node](), next(n for n in graph.nodes if n.op == "output")
    waiting = [output, *(node for node in graph.nodes if writes(node))]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return [n for n in graph.nodes if n in needed or n.op == "placeholder"], output


def is_value(node: Node) -> bool:
    """Whether it is a tensor, or several, and no size."""
    many = isinstance(node.target, torch._ops.HigherOrderOperator)
    return many or isinstance(node.meta.get("val"), Tensor | list | tuple)


def is_random(node: Node) -> bool:
    """Whether the operation may draw random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def side_by_side(
    graph: ExportedProgram, tensors: Mapping[str, Tensor], batches: Sequence[Tensor]
) -> Iterator[tuple[Node, list[Any]]]:
    """Run the graph on several batches at once: each operation and what it gives for each of them."""
    names = tensors_of(graph)
    nodes, output = live(graph.graph)
    last = {used: node for node in nodes for used in node.all_input_nodes}
    worlds: list[dict[Node, Any]] = [{} for _ in batches]
    for node in nodes:
        if node is output:
            continue
        for world, batch in zip(worlds, batches, strict=True):
            if node.op == "placeholder":
                world[node] = tensors[names[node.name]] if node.name in names else batch.clone()
            elif node.op == "get_attr":
                world[node] = operator.attrgetter(str(node.target))(graph.graph_module)
            else:
                args, kwargs = _with_values(node.args, world), _with_values(node.kwargs, world)
                world[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        yield node, [world[node] for world in worlds]
        for used in node.all_input_nodes:
            if last[used] is node:
                for world in worlds:
                    del world[used]


def _with_values(arguments: Any, values: Mapping[Node, Any]) -> Any:
    return torch.fx.node.map_arg(arguments, lambda node: values[node])


class Precisely(TorchDispatchMode):
    """Random numbers do not depend on how tensors lie in memory, and with ``double`` whatever would be
    float32 is float64. ``draws`` tells which operations drew numbers."""

    def __init__(self, double: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.double = double
        self.draws: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.double:
            args, kwargs = tree_map(lambda x: torch.float64 if x is torch.float32 else x, (args, kwargs))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws.append(str(func.overloadpacket).removesuffix("_"))  # in place or not
            if self.double and kwargs.get("dtype") is None and _makes_floats(func):
                kwargs = {**kwargs, "dtype": torch.float64}
            if func._schema.is_mutable:
                drawn = func(args[0].clone(memory_format=torch.contiguous_format), *args[1:], **kwargs)
                return args[0].copy_(drawn)
        result = func(*args, **kwargs)
        fresh = self.double and not any(r.alias_info for r in func._schema.returns)
        return tree_map(_doubled, result) if fresh else result


def _makes_floats(func: Any) -> bool:
    """Whether it makes a tensor from nothing, of the default type."""
    arguments = {a.name: a for a in func._schema.arguments}
    return "dtype" in arguments and arguments["dtype"].default_value is None and "self" not in arguments


def _doubled(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.dtype == torch.float32 else x
