"""Names and numbers are converted or refused when they are given, never after hours of training."""

import enum
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.datasets import load_digits
from torch import nn

from eideticnet import (
    ConfigError,
    DataError,
    EideticNetwork,
    ImageInput,
    Inputs,
    Pruning,
    Routing,
    Training,
    batches,
)
from eideticnet.contract.bundle import names_problem
from eideticnet.names import class_names, task_name
from tests.support.drawn_jobs import X, Y, jobs
from tests.support.example_counts import examples
from tests.support.small_networks import LIGHT, QUICK, held_out, names, task_loader, trained


def learn(net, name="new", classes=("a", "b"), **options):
    return net.train_task(name, task_loader(5), classes, **{"training": QUICK, "pruning": LIGHT} | options)


@examples(30, 600)
@given(job=jobs())
def test_whatever_train_task_accepts_is_saved_and_comes_back_equal_and_the_rest_is_refused_at_once(
    job, tmp_path_factory
):
    folder, seen = tmp_path_factory.mktemp("run"), []
    try:
        net = job.learn(seen.append)
    except DataError as error:
        assert seen == []
        assert "\n" not in str(error)
        return
    net.save(folder)
    loaded = EideticNetwork.load(folder)
    assert loaded.digests() == net.digests()
    assert (loaded.inputs, loaded.seed) == (net.inputs, net.seed)
    assert [(t.name, t.classes) for t in loaded.tasks] == [(t.name, t.classes) for t in net.tasks]
    assert all(torch.equal(a, b) for a, b in zip(loaded(X), net(X), strict=True))
    assert names_problem((t.name, t.classes) for t in net.tasks) == ""
    json.dumps(net.inputs.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (load_digits().target_names, tuple("0123456789")),
        (np.unique(np.array([3, 1, 3])), ("1", "3")),
        (torch.tensor([4, 5]), ("4", "5")),
        ([torch.tensor(0), np.int64(1)], ("0", "1")),
        (np.array(["cat", "dog"]), ("cat", "dog")),
        (np.array(["cat", 1], dtype=object), ("cat", "1")),
        (range(2), ("0", "1")),
        (np.array([False, True]), ("False", "True")),
        ({"cat": 0, "dog": 1}.keys(), ("cat", "dog")),
        ((name for name in "ab"), ("a", "b")),
    ],
)
def test_classes_become_plain_strings(classes, expected):
    found = class_names(classes, "t")
    assert found == expected
    assert {type(name) for name in found} == {str}


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"a", "b"}, "in the order of the labels"),
        (frozenset("ab"), "in the order of the labels"),
        ({0: "a", 1: "b"}, "in the order of the labels"),
        ("ab", "give a list such as"),
        (2, "give a list such as"),
        (None, "give a list such as"),
        (torch.tensor(2), "give a list such as"),
        ([1, "1"], "'1' twice"),
        ([1.0, math.nan], "got nan"),
        (np.array([0.0, np.nan]), "got nan"),
        (["é", "e\u0301"], "twice"),
        (["a"], "got 1 of them"),
        (["a", ""], "1 to 200 printable characters"),
        (["a", " "], "not only spaces"),
        (["a", "b\n"], r"can't be 'b\\n'"),
        (["a", "\ud800"], r"can't be '\\ud800'"),
        (["a", "\u202eb"], "printable"),
        (["a", "b" * 201], "printable"),
        (["a", b"b"], "got b'b'"),
        (["a", None], "got None"),
        (np.zeros((2, 2)), "must be names"),
    ],
)
def test_classes_that_can_not_be_kept_are_refused_before_anything_is_trained(classes, said):
    seen = []
    with pytest.raises(DataError, match=said):
        learn(trained(1), classes=classes, report=seen.append)
    assert seen == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (3, "a task's name is a string, got 3; use '3'"),
        (np.int64(3), "use '3'"),
        (None, "is a string, got None"),
        ("", "printable"),
        ("\t", "printable"),
        ("a\u200b", "printable"),
        ("n" * 201, "printable"),
        ("\udcff", "printable"),
        ("task 0", "there is a task 'task 0' already"),
        ("router", "choose another"),
        ("a (revision 1)", "choose another"),
    ],
)
def test_names_of_tasks_that_can_not_be_kept_are_refused(name, said):
    with pytest.raises(DataError, match=said.replace("(", r"\(")):
        learn(trained(1), name)


def test_a_name_that_reads_like_anothers_is_refused_and_one_of_numpys_is_plain():
    net = trained(0, router=False)
    learn(net, "e\u0301")
    with pytest.raises(DataError, match="already"):
        learn(net, "\u00e9")
    assert type(learn(net, np.str_("b")).name) is str
    assert task_name("n" * 200) == "n" * 200


class Kind(str, enum.Enum):  # noqa: UP042  whose str() is another
    CAT = "cat"
    DOG = "dog"


def test_members_of_an_enum_of_strings_are_the_names_that_they_stand_for():
    net = trained(0, router=False)
    task = learn(net, Kind.CAT, list(Kind))
    assert (type(task.name), task.name, task.classes) == (str, "cat", ("cat", "dog"))
    assert {type(name) for name in task.classes} == {str}
    assert torch.equal(net.task_logits(X[:2], Kind.CAT), net.task_logits(X[:2], "cat"))
    assert net.rows({Kind.CAT: task_loader(5)}).keys() == {"cat"}


@pytest.mark.parametrize(
    ("trunk", "said"),
    [
        (lambda x: x, "a function"),
        (nn.Linear, "the class Linear itself"),
        (None, "a NoneType"),
        ("mlp", "a str"),
    ],
)
def test_a_trunk_that_is_no_module_is_refused(trunk, said):
    with pytest.raises(DataError, match=f"^trunk is {said}: give a torch.nn.Module"):
        EideticNetwork(trunk, X[:2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pruning": 0.5}, r"pruning is 0.5: give Pruning\(...\) or None"),
        ({"pruning": False}, "pruning is False"),
        ({"pruning": Pruning}, "pruning is <class"),
        ({"training": None}, r"training is None: give Training\(...\)"),
        ({"journal": "file"}, r"journal is 'file': give Journal\(...\)"),
        ({"report": None}, "report is None: give a function"),
        ({"when_full": "x"}, "when_full 'x': use refuse, reuse, widen"),
        ({"when_full": ["widen"]}, "when_full"),
    ],
)
def test_an_argument_of_another_kind_is_refused_with_the_kind_that_is_wanted(options, said):
    net = trained(1, router=False)
    calls = [learn, lambda net, **given: net.revise_task("task 0", task_loader(0), **given)]
    if "pruning" not in options:
        calls.append(lambda net, **given: net.fit_router({"task 0": task_loader(0)}, **given))
    for call in calls:
        with pytest.raises(DataError, match=said):
            call(net, **options)


def test_so_are_those_of_routing_and_pruning():
    for routing in ("taps", None, Routing):
        with pytest.raises(DataError, match="routing is "):
            trained(1, router=False).fit_router({"task 0": task_loader(0)}, routing=routing)
    with pytest.raises(DataError, match=r"pruning is 0\.5"):
        Routing(pruning=0.5)
    for name, value in (("step", "0.1"), ("threshold", None), ("lr_factor", True), ("recovery_epochs", [1])):
        with pytest.raises(ConfigError, match=f"pruning {name} .*: give a number"):
            Pruning(**{name: value})
    for width in ("3", True, {"a": True}):
        with pytest.raises(ConfigError, match=r"min_width .*: use whole numbers"):
            Pruning(min_width=width)


@pytest.mark.parametrize("value", [0.5, np.float64(0.5), np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_a_number_of_another_library_is_the_same_number(value):
    inputs = Inputs((6,), low=value, high=value, mean=value, std=[value])
    assert inputs == Inputs((6,), low=0.5, high=0.5, mean=(0.5,), std=(0.5,))
    assert {type(v) for v in (inputs.low, inputs.high, *inputs.mean, *inputs.std)} == {float}


def test_numbers_that_were_plain_stay_what_they_were_for_digests_are_taken_of_them():
    inputs = Inputs((6,), low=0, high=16, mean=(1,), std=(16,))
    assert json.dumps(inputs.to_json()).count(".0") == 0


def test_a_mean_may_keep_its_dimensions_and_sizes_come_from_a_shape():
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = Inputs(x.shape[1:], mean=x.mean((0, 2, 3), keepdim=True), std=x.std((0, 2, 3)).numpy())
    assert kept == Inputs(
        (3, 4, 4), mean=tuple(x.mean((0, 2, 3)).tolist()), std=tuple(x.std((0, 2, 3)).tolist())
    )
    assert Inputs(np.int64(6), dtype=torch.float32) == Inputs((6,))
    assert type(Inputs([np.int32(6)]).shape[0]) is int


def test_infinite_bounds_are_none_and_those_of_an_old_checkpoint_stay():
    assert Inputs((6,), low=-math.inf, high=np.inf) == Inputs((6,))
    data = Inputs((6,)).to_json() | {"low": -math.inf}
    assert Inputs.from_json(data).to_json() == data


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"low": math.nan}, "low is nan"),
        ({"low": math.inf}, "low is inf, which no float32 can be"),
        ({"high": 1e39}, "leave it out where there is no bound"),
        ({"high": True}, "high is True: give a number"),
        ({"low": "0"}, "low is '0': give a number"),
        ({"low": torch.zeros(6)}, "low is .*give a number"),
        ({"mean": torch.full((6,), math.nan)}, r"mean\[0\] is nan"),
        ({"mean": torch.zeros(5)}, "mean holds 5 numbers, not 1 or 6"),
        ({"mean": "0.5"}, "give a number"),
        ({"std": torch.tensor([1.0, 1, 0, 1, 1, 1])}, r"std\[2\] is 0.0; use 1 for what is constant"),
        ({"std": 1e-44}, "every std must be positive"),
        ({"std": torch.full((6,), math.nan)}, r"std\[0\] is nan"),
        ({"shape": (6.0,)}, "give a whole number"),
        ({"shape": (1,) * 17}, "up to 16 dimensions"),
        ({"shape": (1 << 31,)}, "one size from 1 to"),
        ({"dtype": torch.float64}, "dtype 'float64'"),
        ({"dtype": "int64", "high": 2**63}, "which no int64 can be"),
    ],
)
def test_numbers_that_no_server_could_read_are_refused_when_they_are_given(given, said):
    with pytest.raises(DataError, match=said):
        Inputs(**{"shape": (6,)} | given)


def test_a_pictures_numbers_are_converted_or_refused_too():
    image = ImageInput(np.array([4, 5]), scale=np.float32(255))
    assert image == ImageInput((4, 5))
    assert type(image.size[0]) is int
    for bad in ({"size": (4, 5.5)}, {"size": 4}, {"size": (4, 1 << 17)}, {"size": (4, 5), "scale": math.nan}):
        with pytest.raises(DataError):
            ImageInput(**bad)


@pytest.mark.parametrize(
    "bounds", [(torch.finfo().min, torch.finfo().max), (0.1, 0.1), (None, 3e38), (1e30, None)]
)
def test_synthetic_probes_fit_the_widest_and_the_narrowest_range(bounds):
    inputs = Inputs((6,), low=bounds[0], high=bounds[1])
    probes = inputs.random(50, torch.Generator().manual_seed(0))
    inputs.check(probes)
    assert probes.isfinite().all()


@pytest.mark.parametrize("bounds", [(-(2**63), 2**63 - 1), (None, None), (3, 3), (2**62, None)])
def test_synthetic_probes_of_whole_numbers_fit_too(bounds):
    inputs = Inputs((6,), "int64", *bounds)
    inputs.check(inputs.random(50, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("seed", [np.int64(3), torch.tensor(3), np.array(3)])
def test_a_seed_of_another_library_is_the_same_seed(seed):
    net = EideticNetwork(nn.Linear(6, 4), X[:2], seed=seed)
    assert (type(net.seed), net.seed) == (int, 3)


@pytest.mark.parametrize("seed", [1.5, "3", None, torch.zeros(2)])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(DataError, match=r"seed=.*whole number"):
        EideticNetwork(nn.Linear(6, 4), X[:2], seed=seed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": 2.5}, "memory=2.5: give a whole number"),
        ({"memory": -1}, "from 0"),
        ({"moments": "many"}, "moments='many'"),
        ({"moments": 12}, "16 features were kept of earlier tasks"),
        ({"moments": 10**7}, "745058 GiB of products; use up to 32768"),
        ({"pretrained": lambda: None}, r"pretrained is .*: give Module\(...\) or None"),
        ({"probes": torch.full((1, 6), math.nan)}, "finite"),
        ({"probes": torch.zeros(0, 6)}, "one or more"),
        ({"probes": [["a"] * 6]}, "holds text"),
    ],
)
def test_what_is_to_be_kept_is_checked_before_anything_is_trained(options, said):
    net, seen = trained(1, router=False, moments=16), []
    with pytest.raises(DataError, match=said):
        learn(net, **{"moments": 16} | options, report=seen.append)
    assert seen == []


def test_moments_of_whole_numbers_are_refused_before_anything_is_trained():
    x, seen = torch.randint(0, 5, (16, 4)), []
    net = EideticNetwork(nn.Sequential(nn.Embedding(5, 4), nn.Flatten()), x[:2])
    with pytest.raises(DataError, match="float32 inputs alone"):
        net.train_task("t", batches(x, Y[:16]), names(2), moments=4, report=seen.append)
    assert seen == []


def test_metadata_that_can_not_be_saved_is_refused_before_anything_is_trained():
    net = trained(1)
    for value in (np.float32(1), "\ud800", {1, 2}):
        net.metadata = {"made by": value}
        with pytest.raises(DataError, match="metadata can't be saved"):
            learn(net)
    net.metadata = [1]
    with pytest.raises(DataError, match="metadata is a list; keep a dict"):
        learn(net)


@pytest.mark.parametrize("by", [np.float64(0.5), torch.tensor(0.5), {"layers.0": np.int64(12)}])
def test_a_network_is_widened_by_numbers_of_another_library(by):
    net = trained(1)
    net.widen(by)
    assert net.program.groups["layers.0"] == 36
    of_one = [{"layers.0": number} for number in (1.5, True, -1, 10**12)]
    for bad in ("0.5", math.nan, *of_one, {3: 1}, 1e30):
        with pytest.raises(DataError, match="widen"):
            net.widen(bad)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (torch.optim.Adam([nn.Parameter(torch.zeros(1))]), "an object of class Adam, not a function"),
        ("adam", "'adam', not a function"),
        (None, "None, not a function"),
    ],
)
def test_an_optimizer_in_place_of_what_makes_one_is_refused_with_the_form_that_is_wanted(optimizer, said):
    with pytest.raises(ConfigError, match=rf"{said}.*lambda parameters: torch\.optim\.Adam\(parameters"):
        Training(optimizer)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (lambda parameters: None, "optimizer made None, which is no optimizer"),
        (
            lambda parameters: torch.optim.SGD([nn.Parameter(torch.zeros(1))]),
            "other parameters than it was given",
        ),
        (lambda: None, "failed: TypeError: .*takes 0 positional arguments"),
        (lambda parameters: torch.optim.SGD(parameters, lr=-1), "failed: .*Invalid learning rate"),
        (torch.optim.LBFGS, "failed: TypeError: LBFGS.step.. missing .*'closure'"),
        (torch.optim.SparseAdam, "failed: RuntimeError: SparseAdam"),
    ],
)
def test_a_factory_that_makes_no_optimizer_of_the_given_parameters_is_refused(optimizer, said):
    with pytest.raises(ConfigError, match=said):
        learn(trained(1), training=Training(optimizer))


def test_a_class_and_a_partial_are_factories():
    for optimizer in (torch.optim.Adam, partial(torch.optim.SGD, lr=0.1)):
        learn(trained(0, router=False), training=Training(optimizer, max_epochs=1))


@pytest.mark.parametrize("epochs", [2.5, "3", 0, None, True])
def test_epochs_are_whole_numbers(epochs):
    with pytest.raises(ConfigError, match="whole number of epochs"):
        Training(max_epochs=epochs)


@pytest.mark.parametrize(
    "options", [{"threads": t} for t in ("2", 1.5, 0, 10**6, True)] + [{"label_smoothing": "x"}]
)
def test_numbers_that_no_training_can_have_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        Training(**options)


def test_a_share_of_false_rejections_may_be_a_number_of_numpys():
    assert type(Routing(false_rejections=np.float32(0.25)).false_rejections) is float


def test_an_example_that_is_no_tensor_is_refused():
    with pytest.raises(DataError, match="example_input is a ndarray"):
        EideticNetwork(nn.Linear(6, 4), X[:2].numpy())
    with pytest.raises(DataError, match="inputs is a dict"):
        EideticNetwork(nn.Linear(6, 4), X[:2], inputs={"shape": (6,)})


def test_a_task_is_shown_in_one_line():
    task = learn(trained(0, router=False), memory=4, pruning=Pruning(step=0.5))
    assert repr(task) == "Task(name='new', owner='t0', classes=('a', 'b'), revision=0)"
    assert len(held_out()) == 9
