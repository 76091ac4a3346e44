"""A Triton model repository: by Triton's own schema, beside the graph that it describes."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from eideticnet import EideticNetwork, Inputs, batches
from eideticnet.contract.bundle import LONGEST_NAME
from eideticnet.export.errors import ExportError
from eideticnet.export.graph.session import session
from eideticnet.export.triton import version_number, write_repository
from eideticnet.models import mlp
from tests.export.test_command_line import inside
from tests.support.archived_networks import bundled, normalised
from tests.support.example_counts import examples, often
from tests.support.small_networks import LIGHT, QUICK, held_out, task_loader
from tests.support.small_trunks import FEATURES

SHARED = {"a b": ["cat", "döns"], "c": ["döns", '"quoted" \\ and long']}
NUMPY = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64}
ONNX = {"TYPE_FP32": onnx.TensorProto.FLOAT, "TYPE_INT64": onnx.TensorProto.INT64}


def config_of(model):
    """What Triton's own schema reads in config.pbtxt; unknown fields and wrong types raise."""
    return text_format.Parse((model / "config.pbtxt").read_bytes(), ModelConfig())


def shape_in_graph(value):
    """What Triton's back end compares with the graph's, behind the batch."""
    return list(value.reshape.shape if value.HasField("reshape") else value.dims)


class Triton:
    """What Triton does with the folder of a model: requests of batches (N, *dims) are checked by the
    configuration, reshaped, run by ONNX Runtime with the options that it names, and reshaped again."""

    def __init__(self, model):
        self.config = config_of(model)
        (version,) = [p for p in model.iterdir() if p.is_dir()]
        self.path = version / self.config.default_model_filename
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(self.config.parameters["intra_op_thread_count"].string_value)
        options.inter_op_num_threads = int(self.config.parameters["inter_op_thread_count"].string_value)
        self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def infer(self, **inputs):
        assert {value.name for value in self.config.input} == inputs.keys()
        feeds = {}
        for value in self.config.input:
            given = inputs[value.name]
            assert list(given.shape[1:]) == list(value.dims)
            assert given.dtype == NUMPY[DataType.Name(value.data_type)]
            assert 1 <= len(given) <= self.config.max_batch_size
            feeds[value.name] = given.reshape(len(given), *shape_in_graph(value))
        names = [value.name for value in self.config.output]
        found = zip(self.config.output, self.session.run(names, feeds), strict=True)
        return {
            v.name: a.reshape(len(a), *v.dims).astype(NUMPY[DataType.Name(v.data_type)]) for v, a in found
        }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The repository, and the archive, of one run."""
    folder = tmp_path_factory.mktemp("triton")
    normalised(3).save(folder / "runs/net")
    for options in (["--store", folder / "store"], ["--format", "triton", "--store", folder / "models"]):
        assert inside("export", folder / "runs/net", *options).returncode == 0
    return folder / "models", folder / "store/net-3.0.mar"


def shared():
    loaders = {name: task_loader(seed) for seed, name in enumerate(SHARED)}
    net = EideticNetwork(mlp(FEATURES, (12, 8)), torch.zeros(2, FEATURES), label_space="shared")
    return taught(net, {name: (loaders[name], classes) for name, classes in SHARED.items()})


def taught(net, tasks):
    for name, (loader, classes) in tasks.items():
        net.train_task(name, loader, classes, training=QUICK, pruning=LIGHT)
    net.fit_router({name: loader for name, (loader, _) in tasks.items()}, training=QUICK)
    return net


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    bundled(normalised(2), folder, name="net", model_version="2.0")
    return folder


class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.layer = torch.nn.Linear(12, 8)

    def forward(self, x):
        return torch.relu(self.layer(self.embedding(x).flatten(1)))


def tokens():
    x = torch.randint(5, (64, 3))
    net = EideticNetwork(Tokens(), x[:2], inputs=Inputs((3,), "int64", low=0, high=4))
    halves = {name: rows[rows[:, 0].argsort()] for name, rows in zip("ab", x.split(32), strict=True)}
    loaders = {name: batches(rows, rows[:, 1] % 2, 16) for name, rows in halves.items()}
    return taught(net, {name: (loader, ["even", "odd"]) for name, loader in loaders.items()})


def described(folder, net, serving=None, **options):
    """The configuration of a network's bundle, the graph, and ``bundle.json``."""
    (folder / "bundle").mkdir()
    bundled(net, folder / "bundle", name="net", model_version="2.0", **options)
    write_repository(folder / "bundle", folder / "models/net", serving or {})
    bundle = json.loads((folder / "bundle/bundle.json").read_text())
    return config_of(folder / "models/net"), onnx.load(folder / "models/net/2/model.onnx").graph, bundle


def assert_describes(config, graph):
    """Triton's back end refuses to load what is described with another name, type or shape."""
    for told, held in ((config.input, graph.input), (config.output, graph.output)):
        assert [value.name for value in told] == [value.name for value in held]
        for value, inner in zip(told, held, strict=True):
            tensor = inner.type.tensor_type
            batch, *dims = tensor.shape.dim
            assert batch.dim_param
            assert shape_in_graph(value) == [dim.dim_value for dim in dims]
            assert ONNX[DataType.Name(value.data_type)] == tensor.elem_type
            assert min(value.dims) >= 1  # Triton takes no shape without a dimension


def test_the_repository_is_what_tritons_schema_and_the_graph_say(exported):
    models, _ = exported
    assert [path.name for path in models.iterdir()] == ["net"]
    assert contents(models / "net").keys() == {"config.pbtxt", "bundle.json", "tasks.txt", "3/model.onnx"}
    config = config_of(models / "net")
    assert_describes(config, onnx.load(models / "net/3/model.onnx").graph)
    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnxruntime", 64)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_AUTO
    labels = {value.name: value.label_filename for value in config.output if value.label_filename}
    assert labels == {"task_probs": "tasks.txt"}
    assert (models / "net/tasks.txt").read_text().splitlines() == ["task 0", "task 1", "task 2"]
    told = json.loads(config.parameters["tasks"].string_value)
    assert told == [{"name": t.name, "classes": list(t.classes)} for t in normalised(3).tasks]


def test_the_graph_alone_gives_the_archives_answers_bit_for_bit(exported):
    models, archive = exported
    triton, x = Triton(models / "net"), held_out(12).numpy()
    with zipfile.ZipFile(archive) as file:
        graph = file.read("model.onnx")
    assert triton.path.read_bytes() == graph
    pins, thresholds = np.arange(12) % 4 - 1, np.linspace(0, 1, 12, dtype=np.float32)
    feeds = {"x": x, "pinned_task": pins, "threshold": thresholds}
    expected = session(onnx.load_model_from_string(graph))(feeds)
    found = triton.infer(x=x, pinned_task=pins[:, None], threshold=thresholds[:, None])
    assert found.keys() == expected.keys() == {"task", "label", "task_probs", "label_probs", "logits"}
    for name, answers in expected.items():
        assert np.array_equal(found[name].reshape(answers.shape), answers), name


@pytest.mark.parametrize("kind", often(["shared", "tokens", "int8"], ["shared"]))
def test_every_kind_of_network_is_described_as_its_graph_is(kind, tmp_path):
    net = {"shared": shared, "tokens": tokens, "int8": lambda: normalised(2)}[kind]()
    options = {"precision": "int8"} if kind == "int8" else {}
    serving = {"handler": {"device": "cuda", "threads": 3}}
    config, graph, bundle = described(tmp_path, net, serving, max_instances=7, **options)
    assert_describes(config, graph)
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.max_batch_size == (1 if kind == "int8" else 7)  # whose answers depend on the batch
    assert config.HasField("dynamic_batching") == (kind != "int8")
    labels = {value.name: value.label_filename for value in config.output if value.label_filename}
    assert labels.get("label_probs") == ("classes.txt" if kind == "shared" else None)
    if kind == "shared":
        told = (tmp_path / "models/net/classes.txt").read_text().splitlines()
        assert told == bundle["classes"] == ["cat", "döns", '"quoted" \\ and long']
        assert json.loads(config.parameters["classes"].string_value) == told


def test_what_is_there_stays_whole_unless_it_is_to_be_replaced(exported, bundle, tmp_path):
    model = Path(shutil.copytree(exported[0] / "net", tmp_path / "models/net"))
    before = contents(model)
    with pytest.raises(ExportError, match="net is there already, with other content: --replace"):
        write_repository(bundle, model, {})
    assert contents(model) == before
    write_repository(bundle, model, {}, replace=True)
    assert contents(model).keys() - before.keys() == {"2/model.onnx"}
    write_repository(bundle, model, {})  # the same once more
    assert "3/model.onnx" not in contents(model)
    assert [path.name for path in model.parent.iterdir()] == ["net"]


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model-version", "3.1"], "the model version '3.1' is no number from 1 as Triton needs one"),
        (["--prefix", "1"], "--prefix is for the handler"),
        (["--bucket", "4"], "--bucket is for the handler"),
        (["--validation", "real.npz"], "--validation is for the handler"),
    ],
)
def test_what_triton_does_not_have_is_refused_before_anything_is_made(exported, tmp_path, options, words):
    run = exported[0].parent / "runs/net"
    result = inside("export", run, "--format", "triton", "--store", tmp_path / "models", *options)
    assert (result.returncode, words in " ".join(result.stderr.split())) == (1, True), result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("version", "number"), [("1", 1), ("12.0", 12), ("7.0.0", 7)])
def test_a_whole_version_is_its_number(version, number):
    assert version_number(version) == number


@pytest.mark.parametrize("version", ["0", "0.0", "01", "1.1", "1.0.1", "v1", "1.", "9" * 19])
def test_any_other_version_has_none(version):
    with pytest.raises(ExportError, match=r"--model-version N or N\.0"):
        version_number(version)


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=LONGEST_NAME)


@examples(15, 100)
@given(name=PRINTABLE, labels=st.lists(PRINTABLE, min_size=2, max_size=2, unique=True))
def test_any_name_reaches_the_client_as_it_is(bundle, tmp_path_factory, name, labels):
    folder = tmp_path_factory.mktemp("named")
    told = json.loads((bundle / "bundle.json").read_text())
    told["tasks"][0] |= {"name": name, "classes": labels}
    (folder / "bundle.json").write_text(json.dumps(told))
    (folder / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    write_repository(folder, folder / "net", {})
    found = json.loads(config_of(folder / "net").parameters["tasks"].string_value)
    assert found[0] == {"name": name, "classes": labels}
    assert (folder / "net/tasks.txt").read_text().split("\n")[0] == name
