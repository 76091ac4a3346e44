"""A head's digest stands for all that its logits can depend on, and for nothing else."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from eideticnet.export.errors import ArchiveError
from eideticnet.export.graph.idle import hazards
from eideticnet.export.graph.intervals import intervals
from eideticnet.export.graph.lanes import lane_digests, needs
from eideticnet.export.graph.session import session
from eideticnet.export.graph.values import Values
from tests.support.example_counts import examples

WIDE, LIMIT = 6, 2.0


class Writer:
    """Writes a body of values (N, 6) whose weights are sparse."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.tensors, self.values = [], {}, ["x"]

    def weights(self, *shape, sparse=True):
        name = f"w{len(self.tensors)}"
        made = self.random.standard_normal(shape) * (self.random.random(shape) < 0.4 if sparse else 1)
        self.tensors[name] = made.astype(np.float32)
        return name

    def whole(self, *numbers):
        name = f"i{len(self.tensors)}"
        self.tensors[name] = np.array(numbers, np.int64)
        return name

    def node(self, kind, *inputs, outputs=1, **attributes):
        made = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, f"n{len(self.nodes)}", **attributes))
        return made if outputs > 1 else made[0]

    def spatial(self, value):
        return self.node("Reshape", value, self.whole(0, WIDE, 1))

    def flat(self, value):
        return self.node("Flatten", value)

    def batch_norm(self, value):
        scale, bias, mean, variance = (self.weights(WIDE) for _ in range(4))
        self.tensors[variance] = np.abs(self.tensors[variance]) + 1
        return self.node("BatchNormalization", value, scale, bias, mean, variance)

    def cut(self, value):
        """Six of more columns."""
        start = int(self.random.integers(0, WIDE))
        return self.node("Slice", value, self.whole(start), self.whole(start + WIDE), self.whole(1))

    def turned(self, value):
        first = int(self.random.integers(1, WIDE))
        a, b = self.node("Split", value, self.whole(first, WIDE - first), outputs=2, axis=1)
        return self.node("Concat", b, a, axis=1)

    def transposed(self, value):
        pairs = self.node("Reshape", value, self.whole(0, 2, 3))
        return self.flat(self.node("Transpose", pairs, perm=[0, 2, 1]))

    @property
    def floats(self):
        return [name for name, tensor in self.tensors.items() if tensor.dtype == np.float32]

    def model(self, tensors=None):
        """With these weights. The first and the last three columns of the last value are two heads."""
        cut = helper.make_node("Split", [self.values[-1], "halves"], ["head 0", "head 1"], axis=1)
        halves = {"halves": np.array([3, 3])}
        return built([*self.nodes, cut], {**(tensors or self.tensors), **halves}, cut.output)


OPERATIONS = {
    "gemm": lambda o, a, b: o.node("Gemm", a, o.weights(WIDE, WIDE), o.weights(WIDE), transB=1),
    "matmul": lambda o, a, b: o.node("MatMul", a, o.weights(WIDE, WIDE)),
    "conv": lambda o, a, b: o.flat(o.node("Conv", o.spatial(a), o.weights(WIDE, WIDE, 1), o.weights(WIDE))),
    "grouped": lambda o, a, b: o.flat(
        o.node("Conv", o.spatial(a), o.weights(WIDE, 2, 3), group=3, pads=[1, 1])
    ),
    "batch norm": lambda o, a, b: o.batch_norm(a),
    "mask": lambda o, a, b: o.node("Mul", a, o.weights(WIDE)),
    "add": lambda o, a, b: o.node("Add", a, b),
    "multiply": lambda o, a, b: o.node("Mul", a, b),
    "concat": lambda o, a, b: o.cut(o.node("Concat", a, b, axis=1)),
    "gather": lambda o, a, b: o.node("Gather", a, o.whole(*o.random.integers(-WIDE, WIDE, WIDE)), axis=1),
    "split": lambda o, a, b: o.turned(a),
    "softmax": lambda o, a, b: o.node("Softmax", a, axis=1),
    "mean": lambda o, a, b: o.node("Sub", a, o.node("ReduceMean", a, o.whole(1), keepdims=1)),
    "layer norm": lambda o, a, b: o.node("LayerNormalization", a, o.weights(WIDE), o.weights(WIDE), axis=-1),
    "transpose": lambda o, a, b: o.transposed(a),
    **{kind: lambda o, a, b, kind=kind: o.node(kind, a) for kind in ("Relu", "Tanh", "Gelu", "Exp", "Abs")},
}


def built(nodes, tensors, heads):
    graph = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", WIDE])],
        [onnx.ValueInfoProto(name=head) for head in heads],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@st.composite
def written(draw):
    writer = Writer(draw(st.integers(0, 999)))
    for kind in draw(st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=8)):
        one, other = (draw(st.sampled_from(writer.values[-3:])) for _ in range(2))
        writer.values.append(OPERATIONS[kind](writer, one, other))
    return writer


def assert_kept_while_digests_stay(writer, tensors, seed):
    """The logits that other ``tensors`` leave: those of which a digest stays, and no hazard is told."""
    random, models = np.random.default_rng(seed), [writer.model(), writer.model(tensors)]
    heads, values = [output.name for output in models[0].graph.output], [Values(model) for model in models]
    old, new = (lane_digests(of, heads) for of in values)
    told = {head for of in values for head, _ in hazards(of, heads, -LIMIT, LIMIT)}
    kept = [head for head in heads if old[head] == new[head] and head not in told]
    runs = [session(model) for model in models]
    for rows in (1, 2, 5):
        x = random.uniform(-LIMIT, LIMIT, (rows, WIDE)).astype(np.float32)
        was, now = (run({"x": x}) for run in runs)
        assert all((was[head] + 0).tobytes() == (now[head] + 0).tobytes() for head in kept)
    return kept


@examples(50, 2000)
@given(writer=written(), seed=st.integers(0, 999), share=st.sampled_from([0.1, 0.4, 1.0]))
def test_logits_never_change_while_their_digest_stays(writer, seed, share):
    random, tensors = np.random.default_rng(seed), dict(writer.tensors)
    for name in random.choice(writer.floats, 1) if writer.floats else []:
        changed = random.random(tensors[name].shape) < share
        other = random.standard_normal(changed.shape).astype(np.float32)
        tensors[name] = np.where(changed, other, tensors[name])
    assert_kept_while_digests_stay(writer, tensors, seed)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_whatever_an_operation_depends_on_counts(kind):
    """And what it doesn't depend on leaves a head's digest."""
    writer, kept = Writer(0), set()
    for each in ("gemm", kind, "gemm"):
        writer.values.append(OPERATIONS[each](writer, *writer.values[-1:] * 2))
    for name in writer.floats:
        for place in np.random.default_rng(1).permutation(writer.tensors[name].size)[:6]:
            other = writer.tensors[name].copy()
            other.flat[place] += 1
            kept.add(len(assert_kept_while_digests_stay(writer, {**writer.tensors, name: other}, 0)))
    assert len(kept) > 1, "some change is seen, and some is not"


@examples(25, 1000)
@given(writer=written(), seed=st.integers(0, 999))
def test_a_digest_stays_while_nothing_changes_that_its_logits_depend_on(writer, seed):
    random, before, tensors = np.random.default_rng(seed), Values(writer.model()), dict(writer.tensors)
    for head in ("head 0", "head 1"):
        needed = needs(before, head).needed
        for name in writer.floats:
            kept = needed.get(name, np.zeros(tensors[name].shape, bool))
            other = np.abs(random.standard_normal(kept.shape)).astype(np.float32)
            tensors[name] = np.where(kept, writer.tensors[name], other)
        after = Values(writer.model(tensors))
        assert lane_digests(before, [head]) == lane_digests(after, [head])


@examples(25, 1000)
@given(writer=written(), seed=st.integers(0, 999))
def test_every_value_lies_in_its_interval(writer, seed):
    model = writer.model()
    bounds = intervals(Values(model), -LIMIT, LIMIT)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in writer.values[1:])
    x = np.random.default_rng(seed).uniform(-LIMIT, LIMIT, (2, WIDE)).astype(np.float32)
    for name, value in session(model)({"x": x}).items():
        low, high = bounds[name]
        assert (np.isinf(low) | ((low <= value + 1e-4) & (value - 1e-4 <= high))).all(), name


def parsed(steps, **tensors):
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> b (float[n, 4] x) => (float[n, m] y) {{ {steps} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(np.array(t), name) for name, t in tensors.items())
    return model


LAYER = np.eye(4, dtype=np.float32)
SEPARATE = "h = MatMul (x, w)"


def depends(steps, **tensors):
    """Whether the digest of y depends on the weights that make the last two columns of h."""
    found = []
    for factor in (1, 2):
        w = LAYER.copy()
        w[:, 2:] *= factor
        model = parsed(f"{SEPARATE} {steps}", w=w, **tensors)
        found.append(lane_digests(Values(model), ["y"])["y"])
    return found[0] != found[1]


FIRST_TWO = {"start": [0], "end": [2], "columns": [1], "rows": [0]}


def test_columns_that_are_cut_off_do_not_count():
    assert not depends("y = Slice (h, start, end, columns)", **FIRST_TWO)
    assert depends("y = Identity (h)")


@pytest.mark.parametrize(
    ("steps", "tensors"),
    [
        # row 0 has its first two columns at a batch of 2, and all rows have all of them at others
        (
            "a = Reshape (h, two) s = Slice (a, start, end, columns) t = ReduceMax <keepdims = 1> (s, both) "
            "f = Slice (h, start, end, columns) y = Add (f, t)",
            {"two": [2, -1], "both": [0, 1]},
        ),
        # the rows behind the fifth, of which there are none at a small batch
        (
            "p = Concat <axis = 0> (h, ones) s = Slice (p, five, end64, rows) t = ReduceMax (s) "
            "f = Slice (h, start, end, columns) y = Add (f, t)",
            {"ones": np.ones((9, 4), np.float32), "five": [5], "end64": [64]},
        ),
        # the column that the size of the batch tells
        (
            "n = Shape <start = 0, end = 1> (x) m = Sub (n, three) i = Max (m, start) "
            "g = Gather <axis = 1> (h, i) f = Slice (h, start, end, columns) y = Add (f, g)",
            {"three": [3]},
        ),
        # the columns that an input tells
        (
            "i = Cast <to = 7> (x) r = ReduceMax <keepdims = 0> (i) j = Unsqueeze (r, rows) k = Add (j, end) "
            "y = Slice (h, start, k, columns)",
            {},
        ),
        # channels that a scale moves, although there are as many
        (
            'r = Reshape (h, row) z = Resize <mode = "nearest", nearest_mode = "ceil", '
            'coordinate_transformation_mode = "asymmetric"> (r, , scales) f = Flatten (z) '
            "y = Slice (f, start, end, columns)",
            {"row": [0, 4, 1], "scales": np.array([1, 1.2, 1], np.float32)},
        ),
        # an operator that nobody listed
        ("c = CumSum (h, one) y = Slice (c, start, end, columns)", {"one": np.array(1)}),
    ],
)
def test_what_depends_on_the_batch_or_is_not_known_counts_whole(steps, tensors):
    assert depends(steps, **FIRST_TWO, **tensors)


@pytest.mark.parametrize(
    ("steps", "hazard"),
    [
        ("y = Gemm (h, old)", ""),
        ("i = Exp (h) y = Gemm (i, old)", "by zero"),
        ("g = Gemm (h, old) y = Reciprocal (g)", "0.0 from -0.0"),
        ("g = Gemm (h, old) s = Sigmoid (g) a = Add (s, more) y = Reciprocal (a)", ""),
        ("g = Gemm (h, old) y = CumSum (g, one)", "0.0 from -0.0"),
    ],
)
def test_a_hazard_of_what_is_multiplied_by_zero_is_told(steps, hazard):
    """Inputs of at most 100: their exponentials overflow."""
    old = np.array([[1.0], [1], [0], [0]], np.float32)
    tensors = {"w": LAYER, "old": old, "more": np.ones(1, np.float32), "one": np.array(1)}
    found = dict(hazards(Values(parsed(f"{SEPARATE} {steps}", **tensors)), ["y"], -100, 100))
    assert hazard in found.get("y", "")
    assert bool(found) == bool(hazard)


def test_a_size_that_overflows_at_larger_batches_is_another():
    """What is cut to 8 bits is the batch up to 255."""
    digests, known = [], {"w": LAYER, "four": [4]}
    for whole in (7, 2):
        steps = (
            f"{SEPARATE} n = Shape <start = 0, end = 1> (x) c = Cast <to = {whole}> (n) k = Cast <to = 7> (c)"
        )
        steps += " t = Concat <axis = 0> (k, four) y = Reshape (h, t)"
        digests.append(lane_digests(Values(parsed(steps, **known)), ["y"])["y"])
    assert len(set(digests)) == 2


def test_operators_of_another_version_count_whole():
    """Softmax meant something else once."""
    digests = []
    for factor in (1, 2):
        w = LAYER.copy()
        w[:, 2:] *= factor
        model = parsed(f"{SEPARATE} y = Slice (h, start, end, columns)", w=w, **FIRST_TWO)
        model.opset_import[0].version = 11
        digests.append(lane_digests(Values(model), ["y"])["y"])
    assert len(set(digests)) == 2


def test_another_name_of_the_operators_does_not_hide_their_version():
    model = parsed(f"{SEPARATE} y = Softmax <axis = 1> (h)", w=LAYER)
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))
    assert "y" in Values(model).opaque


def test_text_is_refused_wherever_it_comes_from():
    """As text 0.0 and -0.0 differ."""
    with pytest.raises(ArchiveError, match="holds text"):
        Values(parsed("t = Cast <to = 8> (x) y = Cast <to = 1> (t)"))


BETWEEN = "p = Clip (x, least, most)"
ONE, TWO, FOURS = np.float32(1), np.float32(2), np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("steps", "tensors"),
    [
        # what is cut off to a whole number, or to a truth value
        (f"{BETWEEN} i = Cast <to = 7> (p) f = Cast <to = 1> (i) y = Reciprocal (f)", {"least": ONE / 2}),
        (f"{BETWEEN} i = Cast <to = 7> (p) j = Div (i, two) f = Cast <to = 1> (j) y = Log (f)", {"two": 2}),
        (
            f"{BETWEEN} i = Cast <to = 9> (p) f = Cast <to = 1> (i) g = Sub (f, one) y = Log (g)",
            {"least": TWO, "most": 2 * TWO, "one": ONE},
        ),
        # least and most are one
        (f"{BETWEEN} q = Clip (p, none, none) y = Reciprocal (q)", {"none": ONE * 0}),
        # what has no number, behind a layer or a maximum
        (
            "a = Abs (x) b = Log (a) r = Reshape (b, shape) c = Conv (r, one) y = Flatten (c)",
            {"shape": [0, 1, 4], "one": [[[ONE]]]},
        ),
        ("b = Sqrt (x) y = ReduceMax <keepdims = 1> (b, last)", {"last": [1]}),
        # factors below zero
        ("y = Celu <alpha = -0.01> (x)", {}),
        ("y = Celu <alpha = 0.0> (x)", {}),
        (
            f"{BETWEEN} e = Elu <alpha = -2.0> (p) f = Sub (e, one) y = Sqrt (f)",
            {"least": -3 * ONE, "most": -ONE / 4, "one": ONE},
        ),
        ("e = Selu <gamma = -3.0> (x) f = Add (e, ten) y = Log (f)", {"ten": 10 * ONE}),
        # the root of what is no number, or below zero
        ("y = BatchNormalization (x, ones, ones, ones, v)", {"v": np.full(4, -1, np.float32)}),
        ("y = BatchNormalization (x, ones, ones, ones, v)", {"v": np.full(4, np.nan, np.float32)}),
        ("y = BatchNormalization <epsilon = 0.5> (x, ones, ones, ones, v)", {"v": FOURS * -0.5}),
        # windows of a pool that lie in the padding alone
        (
            "r = Reshape (x, shape) z = MaxPool <kernel_shape = [2], dilations = [3], pads = [1, 1]> (r) "
            "f = Flatten (z) y = Mul (f, two)",
            {"shape": [0, 2, 2], "two": TWO},
        ),
    ],
)
def test_what_becomes_infinite_at_some_input_has_no_bounds(steps, tensors):
    model = parsed(steps, **{"least": ONE, "most": 1.5 * ONE, "ones": FOURS, **tensors})
    low, high = intervals(Values(model), -100, 100)["y"]
    x = np.random.default_rng(0).uniform(-100, 100, (200, 4)).astype(np.float32)
    x[0] = 0
    given = session(model)({"x": x})["y"]
    assert not np.isfinite(given).all()
    assert np.isinf(low).any()
    assert np.isinf(high).any()


def test_what_may_be_folded_into_the_layer_before_has_room():
    """A factor of 1e36 turns terms of a thousand into infinity, although what they add up to is small."""
    steps = f"{BETWEEN} a = Gemm (p, w, b) y = Mul (a, factor)"
    ends = {"least": np.float32(999), "most": np.float32(1000), "b": FOURS * -1000}
    bounds = intervals(Values(parsed(steps, w=LAYER, factor=FOURS * 1e36, **ends)), -1e4, 1e4)
    assert np.isinf(bounds["y"][1]).all()


def test_what_only_tells_a_type_does_not_count():
    assert not depends(
        "c = CastLike (one, h) s = Slice (h, start, end, columns) y = Mul (s, c)", one=[2.0], **FIRST_TWO
    )


def test_heads_of_attention_do_not_see_each_other_although_rows_and_heads_become_one_axis():
    steps = (
        "a = Reshape (h, split) b = Reshape (a, merged) s = Softmax (b) c = Reshape (s, whole) "
        "y = Slice (c, start, end, columns)"
    )
    shapes = {"split": [0, 2, 2], "merged": [-1, 2], "whole": [-1, 4]}
    assert not depends(steps, **shapes, **FIRST_TWO)
    assert depends(steps.replace("merged)", "whole)"), **shapes, **FIRST_TWO)


def test_how_columns_are_cut_out_and_put_together_does_not_matter():
    ways = [
        "y = Slice (h, start, end, columns)",
        "y, rest = Split <axis = 1> (h, sizes)",
        "y, b, c = Split <axis = 1> (h, more_sizes)",
        "y = Gather <axis = 1> (h, both)",
        "a, b, c, d = Split <axis = 1, num_outputs = 4> (h) y = Concat <axis = 1> (a, b)",
    ]
    known = {**FIRST_TWO, "sizes": [2, 2], "more_sizes": [2, 1, 1], "both": [0, 1]}
    made = [lane_digests(Values(parsed(f"{SEPARATE} {way}", w=LAYER, **known)), ["y"])["y"] for way in ways]
    assert len(set(made)) == 1
    other = parsed(f"{SEPARATE} y = Gather <axis = 1> (h, swapped)", w=LAYER, swapped=[1, 0])
    assert lane_digests(Values(other), ["y"])["y"] != made[0]
