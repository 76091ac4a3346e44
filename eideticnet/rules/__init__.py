"""The one table of rules: how each operation of a trunk treats neurons.

A rule says where an operation's features lie and which groups it joins (``trace``), which layer one
block gets for it (``build``), and how it runs on one block's piece (``run``). A layer whose rule
``reads_prefix`` sees what earlier owners own beside the block's own piece; all other operations see
the own piece alone, which is what keeps an earlier task's bits when a block is appended. An
operation that is not in the table is refused.
"""

from __future__ import annotations

from torch.fx import Node

from eideticnet.program import INPUT, Features, Program, Step
from eideticnet.rules import attention, choosing, norms, recurrent, shapes  # noqa: F401
from eideticnet.rules.base import RULES as RULES
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call, batch_dim, shape_of
from eideticnet.rules.positions import STATISTICS
from eideticnet.rules.taps import tapped
from eideticnet.rules.training import LOCAL

_LISTED = {
    "linear": "linear.default addmm.default",
    "conv": """conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv3d.padding
        conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input""",
    "embedding": "embedding.default",
    "recurrent": "lstm.input gru.input rnn_tanh.input rnn_relu.input",
    "attention": "scaled_dot_product_attention.default",
    "matmul": "matmul.default bmm.default mm.default mv.default dot.default",
    "einsum": "einsum.default",
    "batch_norm": "batch_norm.default",
    "instance_norm": "instance_norm.default",
    "group_norm": "group_norm.default",
    "prefix_norm": "layer_norm.default rms_norm.default",
    "dropout": """dropout.default feature_dropout.default alpha_dropout.default
        feature_alpha_dropout.default""",
    "detach": "detach.default",
    "identity": """contiguous.default clone.default alias.default to.dtype to.dtype_layout
        to.device to.other lift_fresh_copy.default""",
    "reshape": """view.default reshape.default flatten.using_ints unflatten.int view_as.default
        reshape_as.default""",
    "permute": """permute.default transpose.int t.default movedim.int movedim.intlist swapaxes.default
        swapdims.default mT.default moveaxis.int moveaxis.intlist""",
    "unsqueeze": "unsqueeze.default",
    "glu": "glu.default",
    "stack": "stack.default",
    "pixel_shuffle": "pixel_shuffle.default pixel_unshuffle.default",
    "channel_shuffle": "channel_shuffle.default",
    "index": "index.Tensor",
    "gather": "gather.default",
    "repeat": "expand.default expand_as.default repeat.default",
    "interleave": "repeat_interleave.self_int",
    "part": "chunk.default split.Tensor split_with_sizes.default split.sizes",
    "cat": "cat.default",
    "positions": """max_pool1d.default max_pool2d.default max_pool3d.default avg_pool1d.default
        avg_pool2d.default avg_pool3d.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
        adaptive_avg_pool3d.default adaptive_max_pool1d.default adaptive_max_pool2d.default
        adaptive_max_pool3d.default max_pool1d_with_indices.default max_pool2d_with_indices.default
        max_pool3d_with_indices.default upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec
        _upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec
        upsample_linear1d.vec upsample_bilinear2d.vec upsample_trilinear3d.vec upsample_bicubic2d.vec
        _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa.vec
        pad.default constant_pad_nd.default mean.dim sum.dim_IntList amax.default
        amin.default max.dim min.dim logsumexp.default var.dim var.correction std.dim
        std.correction linalg_vector_norm.default norm.ScalarOpt_dim all.dim any.dim argmax.default
        argmin.default sort.default topk.default softmax.int log_softmax.int select.int slice.Tensor
        narrow.default squeeze.default squeeze.dim squeeze.dims unbind.int flip.default roll.default
        cumsum.default diff.default index_select.default""",
    "prelu": "prelu.default",
    "rrelu": "rrelu.default",
    "elementwise": """relu.default relu6.default leaky_relu.default elu.default selu.default celu.default
        gelu.default silu.default mish.default hardtanh.default hardswish.default hardsigmoid.default
        softplus.default sigmoid.default tanh.default exp.default abs.default neg.default clamp.default
        log_sigmoid.default softshrink.default hardshrink.default sin.default cos.default sqrt.default
        rsqrt.default pow.Tensor_Scalar add.Tensor sub.Tensor mul.Tensor div.Tensor add.Scalar sub.Scalar
        mul.Scalar div.Scalar rsub.Scalar reciprocal.default square.default log1p.default erf.default
        clamp_min.default clamp_max.default threshold.default maximum.default minimum.default
        clamp.Tensor clamp_min.Tensor clamp_max.Tensor pow.Tensor_Tensor pow.Scalar log.default log2.default
        log10.default exp2.default expm1.default atan.default asinh.default sinh.default cosh.default
        floor.default ceil.default round.default trunc.default frac.default sign.default erfc.default
        logit.default remainder.Scalar remainder.Tensor floor_divide.default div.Tensor_mode
        lerp.Scalar lerp.Tensor addcmul.default
        addcdiv.default masked_fill.Scalar masked_fill.Tensor where.self where.ScalarOther where.ScalarSelf
        eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar eq.Tensor ne.Tensor lt.Tensor le.Tensor
        gt.Tensor ge.Tensor logical_not.default logical_and.default logical_or.default logical_xor.default
        bitwise_not.default bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor __and__.Tensor
        __or__.Tensor __xor__.Tensor isnan.default
        isinf.default zeros_like.default ones_like.default full_like.default type_as.default""",
}
OPERATIONS = {f"aten.{name}": rule for rule, names in _LISTED.items() for name in names.split()}


def with_taps(program: Program) -> Program:
    """``program`` with a head that reads, beside the features, every value that a layer reads."""
    rows = {INPUT}
    for step in program.steps:
        if step.rule != "constant" and rows.intersection(step.inputs):
            rows.add(step.name)
    read = [n for s in program.steps if s.layer and RULES[s.rule].reads_prefix for n in s.inputs]
    return tapped(program, [n for n in read if n in rows])


def producers(program: Program, group: str) -> list[Step]:
    """The steps whose weights make the neurons of ``group``, one for each layer."""
    steps = [s for s in program.layers.values() if RULES[s.rule].makes_neurons]
    return [s for s in steps if group in [run.group for run in s.features.runs]]


def floors(program: Program) -> dict[str, int]:
    """The fewest neurons of each group with which the operations on it make sense. Of a layer's many groups
    some may be empty, as long as every layer has something to read."""
    least = {group: int(len(kin) == 1) for kin in program.kin for group in kin}
    for step in program.steps:
        for read in (program.features[name] for name in step.inputs if RULES[step.rule].reads_prefix):
            if read.runs and not any(least[run.group] for run in read.runs):
                least[max((run.group for run in read.runs), key=program.groups.__getitem__)] = 1
    for step in program.steps:
        read = program.features[step.inputs[0]] if RULES[step.rule].floor > 1 else Features()
        for run in read.runs:
            needed = -(-RULES[step.rule].floor // (run.repeat * read.tile))
            least[run.group] = max(least[run.group], needed)
    return least


def check_steps(program: Program) -> None:
    """Raise ``ValueError`` unless every step is one that the table could have written."""
    for step in program.steps:
        known = step.rule in RULES
        if known and "op" in step.options:
            known = OPERATIONS.get(step.options["op"]) in (step.rule, "part", "glu")
            known = known or (step.rule == "statistic" and step.options["op"] in STATISTICS)
        if known and step.rule == "training":
            known = {call["op"] for call in step.options["calls"]} <= LOCAL
        if not known:
            raise ValueError(f"step {step.name!r} runs an operation that no rule covers")


def is_learned(node: Node) -> bool:
    """Whether a layer reads ``node``, which is no activation, as if it were one: rows of the batch."""
    readers = [user for user in node.users if user.args and user.args[0] is node]
    layers = {OPERATIONS.get(str(reader.target)) for reader in readers} & {"linear", "prefix_norm", "dropout"}
    return bool(layers) and batch_dim(shape_of(node)) not in (None, len(shape_of(node)) - 1)


OF_EVERYTHING = {f"aten.{name}.default" for name in ("sum", "mean", "max", "min", "prod", "std", "var")}
"""Reductions without a dimension."""


def rule_for(call: Call) -> Rule:
    """The table's row for an operation; ``UnsupportedError`` if there is none."""
    if call.operation not in OPERATIONS:
        if call.operation in OF_EVERYTHING:
            raise call.refuse("takes all rows of a batch together", "it along a dimension, such as dim=1")
        raise call.refuse("is an operation that no rule covers")
    if OPERATIONS[call.operation] == "conv":
        groups = call.argument(6, 1)
        return RULES["conv" if groups == 1 else "grouped_conv"]
    if (
        call.operation == "aten.type_as.default"
        and len({call.values[n][1].raw for n in call.activations}) > 1
    ):
        return RULES["identity"]  # features of the raw input's type, which is theirs
    return RULES[OPERATIONS[call.operation]]
