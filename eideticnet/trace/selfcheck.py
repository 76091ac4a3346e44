"""A program is tried before anything is learned with it. Rules say why it is right; this shows it, in
numbers.

On a copy of the trunk with weights that hide nothing: whatever an operation gives for a row is the same
beside all other rows, and one block with the trunk's weights computes what the trunk computes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from eideticnet.block import Block
from eideticnet.errors import DataError, UnsupportedError
from eideticnet.program import HEAD, Program, Step
from eideticnet.rules.calls import place, shape_of
from eideticnet.seeding import seeded
from eideticnet.trace.exported import Precisely, side_by_side, tensors_of
from eideticnet.trace.normal import as_named, fixed, in_mode

_LOG = logging.getLogger(__name__)
ROWS = 5
_MUCH = 10**8
_FEW = 1e-3
_TOLERANCE_32 = 1e-3
_TOLERANCE_64 = 1e-8
_ROUNDED = 1e-5
"""In float64, where constants were computed in float32 (sines of positions, say)."""
_PERIOD = 65537
_NOT_OF_THE_DATA = ("new_", "empty", "zeros_like", "ones_like", "full_like", "sym_")
_LIKE_ANOTHER = ("type_as", "to", "expand_as", "view_as", "reshape_as")


def check_program(
    program: Program, trunk: nn.Module, graph: ExportedProgram, rows: Tensor, training: bool
) -> None:
    """Raise ``UnsupportedError`` where ``program`` is not what ``trunk`` computes, each row by itself.

    ``graph`` is the trunk's in normal form, ``rows`` (5, ...) are normalised inputs; ``training`` says
    whether the two are alike in training mode too. What would take long in float64 is tried in float32.
    """
    for name, weight in trunk.named_parameters():
        if weight._backward_hooks or weight._post_accumulate_grad_hooks:
            raise UnsupportedError(
                f"parameter {name!r} has a hook on its gradient, which no block would have"
            )
    with seeded("selfcheck"):
        plain = _with_telling_weights(trunk)
        if _products(graph) < _MUCH:
            try:
                _check(program, plain, graph, rows, training, double=True)
                return
            except UnsupportedError:
                raise
            except Exception:  # something of it is float32 whatever the input is
                _LOG.debug("the trunk does not run in float64", exc_info=True)
        try:
            _check(program, plain, graph, rows, training, double=False)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            raise UnsupportedError(f"the trunk can't be tried on other inputs: {error}") from error


def _products(graph: ExportedProgram) -> int:
    """About how many numbers are multiplied for one row."""
    count, weights = 0, tensors_of(graph)
    for node in graph.graph.nodes:
        shapes = [shape_of(n) for n in node.all_input_nodes if n.name in weights]
        if shapes and isinstance(node.meta.get("val"), Tensor):
            positions = prod(n for n in shape_of(node) if isinstance(n, int))
            count += positions * max(prod(shape[1:]) for shape in shapes)
    return count


def check_adopted(block: Block, trunk: nn.Module, rows: Tensor) -> None:
    """Raise ``DataError`` unless ``block`` computes what the trunk does whose weights it has taken over."""
    plain = in_mode(copy.deepcopy(trunk).cpu(), training=False)
    with torch.no_grad():
        features = block(rows, {})[block.program.steps[-1].inputs[0]]
        off = distance(features, plain(rows.clone()))
    if off > _TOLERANCE_32:
        raise DataError(
            f"pretrained: with its weights the network's trunk computes something else ({off:.2g} of the "
            "greatest apart): a setting or a constant is another; make the network from the very trunk"
        )


def one_block(program: Program, named: nn.Module) -> Block:
    """A block that owns every neuron and has the weights of ``named``, the trunk in normal form."""
    block = Block(program, "t0", (), {"t0": {**program.groups, HEAD: 2}})
    block.to(next((weight.dtype for weight in named.parameters()), torch.float32)).adopt(named)
    return block.train(named.training)


@torch.no_grad()
def _with_telling_weights(trunk: nn.Module) -> nn.Module:
    """A copy in which no weight is zero, and none has another sign than before."""
    trunk, constants = copy.deepcopy(trunk), fixed(trunk)
    for name, weight in trunk.named_parameters():
        if weight.is_floating_point() and name not in constants:
            numbers = _random(weight)
            sign = torch.where(weight == 0, numbers - 0.5, weight)
            most = 0.5 / (weight[0].numel() if weight.ndim > 1 else 1) ** 0.5
            weight.add_(numbers.mul_(most).copysign_(sign))
    for norm in trunk.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.add_(torch.rand_like(norm.running_mean) - 0.5)
            norm.running_var.mul_(0.5 + torch.rand_like(norm.running_var))
    return trunk


def _random(like: Tensor) -> Tensor:
    """Numbers from 0 to 1. Many are fewer ones again and again, in a period that fits no layer."""
    fewer = torch.rand(min(like.numel(), _PERIOD), dtype=like.dtype, device=like.device)
    return fewer.repeat(-(-like.numel() // _PERIOD))[: like.numel()].reshape(like.shape)


def _check(
    program: Program, plain: nn.Module, graph: ExportedProgram, rows: Tensor, training: bool, double: bool
) -> None:
    plain = in_mode(plain.double() if double else plain.float(), training=False)
    rows = rows.double() if double and rows.is_floating_point() else rows
    named, tolerance, few = as_named(plain), _TOLERANCE_32, rows[: 3 if double else 2]
    if double:
        tolerance = _ROUNDED if any(map(_is_rounded, program.steps)) else _TOLERANCE_64
    tensors = {**graph.constants, **named.state_dict()}
    block = one_block(program, named)
    with torch.no_grad(), Precisely(double):
        check_rows(graph, tensors, rows, _TOLERANCE_64 if double else _TOLERANCE_32)
        _check_values(plain, block, graph, tensors, few, tolerance)
    if training or all(step.rule != "detach" for step in program.steps):
        _check_learning(in_mode(named, training), block.train(training), few, tolerance, double)


def _is_rounded(step: Step) -> bool:
    return step.rule in ("constant", "buffer") and "float" in step.options["dtype"]


def check_rows(graph: ExportedProgram, tensors: Mapping[str, Tensor], rows: Tensor, tolerance: float) -> None:
    """What every operation gives for two rows, each among other rows, elsewhere in the batch, in
    batches of two sizes."""
    batches = [rows[[0, 1, 2]], rows[[3, 0]], rows[[1, 4]]]
    of_the_rows, weights = set[Node](), tensors_of(graph)
    for node, values in side_by_side(graph, tensors, batches):
        if node.name not in weights and (node.op == "placeholder" or of_the_rows & _data(node)):
            of_the_rows.add(node)
            for parts in zip(*map(tree_leaves, values), strict=True):
                if isinstance(parts[0], Tensor) and "empty" not in str(node.target):
                    _check_value(node, parts, tolerance)


def _check_value(node: Node, parts: Sequence[Tensor], tolerance: float) -> None:
    three, first, second = parts
    if three.ndim == first.ndim:
        moved = [d for d in range(three.ndim) if three.shape[d] != first.shape[d]]
    if three.ndim != first.ndim or not moved:
        raise _mixes(node, "takes the rows of a batch together")
    (dim, *others) = moved
    if others or 2 * three.shape[dim] != 3 * first.shape[dim]:
        raise _mixes(node, "combines the rows of a batch with one another")
    three, first, second = (x.movedim(dim, 0) for x in (three, first, second))
    each = len(three) // 3
    pairs = (three[:each], first[each:]), (three[each : 2 * each], second[:each])
    for here, there in pairs:
        off = distance(here, there)
        if off > tolerance:
            raise _mixes(node, f"gives a row other numbers beside other rows ({off:.2g} of the greatest)")


def _mixes(node: Node, problem: str) -> UnsupportedError:
    return UnsupportedError(
        f"{node.target} in {place(node)} {problem}; each row must be computed by itself (node {node.name})"
    )


def _data(node: Node) -> set[Node]:
    """The operands whose numbers ``node`` computes with, not only their shapes and types."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    if name.startswith(_NOT_OF_THE_DATA):
        return set()
    return set(node.all_input_nodes[:1] if name in _LIKE_ANOTHER else node.all_input_nodes)


def _check_values(
    plain: nn.Module,
    block: Block,
    graph: ExportedProgram,
    tensors: Mapping[str, Tensor],
    rows: Tensor,
    tolerance: float,
) -> None:
    """One block is the trunk, for all rows and for one."""
    name, features = block.program.steps[-1].inputs[0], plain(rows.clone())  # it may write into its input
    pieces = block(rows, {})
    off = max(distance(pieces[name], features), distance(block(rows[:1], {})[name], features[:1]))
    if off > tolerance:
        for node, (value,) in side_by_side(graph, tensors, [rows]):
            if node.name in pieces and distance(pieces[node.name], value) > tolerance:
                name = f"{node.target} in {place(node)} (node {node.name})"
                break
        raise UnsupportedError(
            f"a block with the trunk's weights computes something else than the trunk, {off:.2g} times the "
            f"greatest apart, first at {name}; please report this trunk"
        )


@torch.enable_grad()
def _check_learning(named: nn.Module, block: Block, rows: Tensor, tolerance: float, double: bool) -> None:
    """With the same random numbers, the block's gradients and what it keeps count of are the trunk's."""
    name = block.program.steps[-1].inputs[0]
    features, theirs = _learned_from(named, lambda: named(rows.clone()), double)
    own, ours = _learned_from(block, lambda: block(rows, {})[name], double)
    if ours != theirs or distance(own, features) > tolerance:
        raise UnsupportedError(
            "while it trains, the trunk computes something else than a block would, and no operation tells "
            f"what (random numbers: {theirs or 'none'} instead of {ours or 'none'})"
        )
    for path, layer, counted in block.beside(named):
        for key, buffer in layer.named_buffers():
            if buffer.is_floating_point() and distance(buffer, counted[key]) > tolerance:
                raise UnsupportedError(
                    f"the trunk's {key} of layer {path!r} counts otherwise than a batch norm's"
                )
    greatest = 0.0
    with torch.no_grad():
        for weight in named.parameters():
            weight.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
            greatest = max(greatest, float(weight.abs().max()) if weight.numel() else 0.0)
    for path, layer, taught in block.beside(named):
        for key, weight in layer.named_parameters():
            given = torch.zeros_like(weight) if weight.grad is None else weight.grad
            if float((given - taught[key]).detach().abs().max()) < tolerance * _FEW * greatest:
                continue  # what a norm undoes is taught by rounding alone
            if distance(given, taught[key]) > tolerance:
                how = "by gradients of its own (a hook, an autograd.Function, a reentrant checkpoint)"
                how = how if taught[key].any() else "not at all"
                raise UnsupportedError(
                    f"the trunk teaches the {key} of layer {path!r} {how}, which a block can't; use "
                    "operations with their usual gradients, or x.detach() where nothing is to be learned"
                )


def _learned_from(
    module: nn.Module, features: Callable[[], Tensor], double: bool
) -> tuple[Tensor, list[str]]:
    """The features, and which operations drew random numbers; leaves gradients of a loss in which every
    feature has another weight."""
    module.requires_grad_(True)
    with seeded("the same for both"), Precisely(double) as precisely:
        out, draws = features(), list(precisely.draws)
        if not out.requires_grad:
            raise UnsupportedError("forward runs without gradients, so nothing of the trunk would learn")
        wanted = torch.linspace(1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
        (out * wanted).sum().backward()
    return out.detach(), draws


def distance(a: Tensor, b: Tensor) -> float:
    """The greatest difference, as a share of the greatest number in ``b``; infinite between shapes."""
    a, b = a.detach(), b.detach()
    if a.shape != b.shape:
        return float("inf")
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else 1.0
    if torch.equal(a, b):
        return 0.0
    most, greatest = (a - b).abs().max(), b.abs().max()
    if bool((most + greatest).isfinite()):
        return float(most / greatest.clamp_min(torch.finfo(a.dtype).tiny))
    differ = (a != b) & ~(a.isnan() & b.isnan())
    apart = torch.where(differ, (a - b).abs(), torch.zeros_like(a)).nan_to_num(float("inf"))
    greatest = torch.where(b.isfinite(), b.abs(), torch.zeros_like(b))
    if not a.numel() or not bool(differ.any()):
        return 0.0
    return float(apart.max() / greatest.max().clamp_min(torch.finfo(a.dtype).tiny))
