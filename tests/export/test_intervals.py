"""What an operator gives lies in the interval that a proof has for it, whatever its operands are."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from eideticnet.export.graph.intervals import intervals
from eideticnet.export.graph.session import session
from eideticnet.export.graph.values import OPSET, Values

ENDS = (-3, -1, -0.5, -0.01, 0, 0.01, 0.5, 1, 3, 7)
FACTORS = (-2.0, -0.5, 0.01, 0.5, 1.0, 3.0)
NAMED = {
    **dict.fromkeys(("Celu", "Elu", "LeakyRelu", "ThresholdedRelu"), ("alpha",)),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}
ONE = [
    *(
        "Abs",
        "Asinh",
        "Atan",
        "Ceil",
        "Cos",
        "Cosh",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSwish",
        "Log",
        "Mish",
    ),
    *("Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt"),
    *("Tanh", *NAMED, "Softmax", "LogSoftmax"),
]
TWO = ["Add", "Div", "Max", "Min", "Mod", "Mul", "PRelu", "Sub", "Sum"]
TOLD_BY_AXES = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Sum"]


def assert_inside(nodes, tensors, random, wide=4):
    graph = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", wide])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(tensor), name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    low, high = (end[:1] for end in intervals(Values(model), -10, 10)["y"])
    x = random.uniform(-10, 10, (200, wide)).astype(np.float32)
    x[:3] = np.array([[0], [-10], [10]])
    given = session(model)({"x": x})["y"].astype(np.float64)
    known = np.isfinite(low) & np.isfinite(high)
    slack = 1e-4 * (1 + np.where(known, np.abs(low) + np.abs(high), 0))
    with np.errstate(invalid="ignore"):
        inside = (low - slack <= given) & (given <= high + slack)
    assert (inside | ~known).all()


def between(random, names="ab", source="x", made="p"):
    """A clip of ``source`` to random ends, and these."""
    ends = np.sort(random.choice(ENDS, 2)).astype(np.float32)
    return helper.make_node("Clip", [source, *names], [made]), dict(zip(names, ends, strict=True))


@pytest.mark.parametrize("kind", [*ONE, *TWO, *(f"Reduce{kind}" for kind in TOLD_BY_AXES)])
def test_every_number_lies_in_its_interval(kind):
    for seed in range(8):
        random = np.random.default_rng(seed)
        (clip, ends), (other, others) = between(random), between(random, "cd", "turned", "q")
        tensors = {**ends, **others, "places": np.array([3, 2, 1, 0]), "axes": np.array([1])}
        turned = helper.make_node("Gather", ["x", "places"], ["turned"], axis=1)
        factors = {name: float(random.choice(FACTORS)) for name in NAMED.get(kind, ())}
        factors |= {"fmod": 1} if kind == "Mod" else {}
        more = ["q"] if kind in TWO else ["axes"] if kind.startswith("Reduce") else []
        nodes = [clip, turned, other, helper.make_node(kind, ["p", *more], ["y"], **factors)]
        assert_inside(nodes, tensors, random)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("places", ["half_pixel", "align_corners", "asymmetric"])
def test_every_number_that_is_resized_lies_in_its_interval(mode, places):
    random = np.random.default_rng(0)
    clip, ends = between(random)
    tensors = {**ends, "shape": np.array([0, 4, 2, 2]), "scales": np.array([1, 1, 1.5, 3], np.float32)}
    options = {"mode": mode, "coordinate_transformation_mode": places}
    nodes = [
        clip,
        helper.make_node("Reshape", ["p", "shape"], ["h"]),
        helper.make_node("Resize", ["h", "", "scales"], ["z"], **options),
        helper.make_node("Flatten", ["z"], ["y"]),
    ]
    assert_inside(nodes, tensors, random, 16)
