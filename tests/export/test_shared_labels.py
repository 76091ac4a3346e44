"""Networks whose tasks share one label space: graphs, archives, proofs and what a server answers."""

import json
from functools import cache
from itertools import product
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import EideticNetwork, Routing, batches
from eideticnet.contract.answers import Answer
from eideticnet.contract.bundle import SCHEMA
from eideticnet.export.archive.reader import read_archive, read_files
from eideticnet.export.archive.releases import RELEASES, check_released, handler_files
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.errors import ArchiveError
from eideticnet.export.graph.session import session
from eideticnet.export.proof.verify import verify
from eideticnet.models import mlp
from eideticnet.serving.deploys.shadow import Comparison
from eideticnet.serving.openapi.schemas import answer
from tests.support.archived_networks import archived, edited
from tests.support.example_counts import examples, often
from tests.support.exported_networks import graph_of
from tests.support.handler_worker import Worker
from tests.support.served_process import Served
from tests.support.small_networks import LIGHT, QUICK, trained
from tests.support.small_trunks import FEATURES
from tests.support.tolerances import EXPORTED

KINDS = "abcdef"
CENTRES = 3 * torch.randn(len(KINDS), FEATURES, generator=torch.Generator().manual_seed(5))
ROUTINGS = [Routing(), Routing("taps", "hard"), Routing("none", "entropy")]
FORMS = [
    ("onnx", "nested"),
    ("onnx", "paged"),
    ("onnx", "dense"),
    ("torchscript", "nested"),
    ("pt2", "nested"),
]


def rows(kinds, seed=0, count=36):
    y = torch.arange(count) % len(kinds)
    centres = CENTRES[[KINDS.index(kind) for kind in kinds]]
    return centres[y] + torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed)), y


@cache
def network(tasks=("abc", "cd", "dea"), label_space="shared", routing=ROUTINGS[0], grown=""):
    """``grown``: the classes of a revision of the first task, learned last."""
    net = EideticNetwork(mlp(FEATURES, (32, 24)), torch.zeros(2, FEATURES), label_space=label_space)
    loaders = {kinds: batches(*rows(kinds, i), 12) for i, kinds in enumerate(tasks)}
    for kinds, loader in loaders.items():
        net.train_task(kinds, loader, list(kinds), training=QUICK, pruning=LIGHT)
    if grown:
        loaders[tasks[0]] = batches(*rows(grown, 9), 12)
        net.revise_task(tasks[0], loaders[tasks[0]], list(grown), training=QUICK, pruning=LIGHT)
    validation = {name: batches(*loader.dataset.tensors, 12) for name, loader in loaders.items()}
    net.fit_router(loaders, routing=routing, training=QUICK, validation=validation)
    return net


@cache
def exported(folder, **options):
    folder.mkdir()
    routing = options.pop("routing")
    write_bundle(network(routing=routing), folder, name="net", model_version="1.0", **options)
    return graph_of(folder, json.loads((folder / "bundle.json").read_text()))


@pytest.mark.parametrize(
    ("routing", "form"),
    often(product(ROUTINGS, FORMS), [*product(ROUTINGS, FORMS[:1]), *product(ROUTINGS[:1], FORMS[3:4])]),
    ids=lambda p: getattr(p, "decision", p),
)
def test_every_form_of_a_graph_answers_with_the_class_that_the_network_does(routing, form, tmp_path):
    run = exported(tmp_path / "bundle", routing=routing, format=form[0], layout=form[1])
    net = network(routing=routing)
    x, _ = rows(KINDS, 3, 60)
    clear = (net(x).label_probs.topk(2, 1).values.diff(dim=1).abs() > 1e-4).flatten()
    clear &= (net(x).task_probs.topk(2, 1).values.diff(dim=1).abs() > 1e-4).flatten()
    x = x[clear]
    pins, threshold = torch.arange(len(x)) % 4 - 1, torch.linspace(0, 1, len(x))
    expected = net(x, pins, threshold)._asdict()
    found = run(x.numpy(), pins.numpy(), threshold.numpy())
    assert len(x) > 20
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.allclose(found[name], value, rtol=0, atol=0 if name in ("task", "label") else EXPORTED)


@examples(5, 20)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 10))
def test_any_input_gets_the_class_that_the_network_gives_it(whole, seed, scale):
    (_, run), net = whole, network()
    x = scale * torch.randn(12, FEATURES, generator=torch.Generator().manual_seed(seed))
    best = net(x).label_probs.topk(2, 1).values
    x = x[best[:, 0] - best[:, 1] > EXPORTED]
    if len(x):
        found = run(x.numpy(), np.full(len(x), -1), np.zeros(len(x), np.float32))
        assert found["label"].tolist() == net(x).label.tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    return folder, exported(folder, routing=ROUTINGS[0])


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two tasks; a third one whose classes overlap; the first one with a class more."""
    folder = tmp_path_factory.mktemp("versions")
    nets = network(("abc", "cd")), network(), network(grown="abcf")
    return [archived(net, folder / str(i), f"{i}.0", prefixes=[1, 2]) for i, net in enumerate(nets)]


def test_a_version_whose_tasks_overlap_or_grow_is_proven_and_its_classes_keep_their_numbers(versions):
    assert [read_archive(path).bundle.classes for path in versions] == [
        tuple("abcd"),
        tuple("abcde"),
        tuple("abcdef"),
    ]
    for old, new in ((0, 1), (1, 2), (0, 2)):
        found = verify(versions[new], versions[old])
        assert (found.verdict, found.reasons) == ("proven", [])
    assert "classes" in " ".join(verify(versions[1], versions[2]).reasons)


def test_the_other_label_space_is_refused_by_the_proof(versions, tmp_path):
    separate = archived(network(label_space="separate"), tmp_path / "separate", "9.0")
    (reason,) = [r for r in verify(separate, versions[0]).reasons if "label space" in r]
    assert "the label space is separate, and was shared" in reason
    assert 'label_space = "shared"' in reason
    (reason,) = [r for r in verify(versions[1], separate).reasons if "label space" in r]
    assert "the label space is shared, and was separate" in reason


def test_real_inputs_are_judged_by_their_class_whichever_task_says_it(versions, tmp_path):
    """Of a class that two tasks have nobody can tell which of them an input is of."""
    x = torch.cat([rows("abc", 30, 240)[0], rows("cd", 31, 240)[0]]).numpy()
    label = np.concatenate([np.arange(240) % 3, np.arange(240) % 2])
    task = np.repeat([0, 1], 240)
    np.savez(tmp_path / "real.npz", x=x, task=task, label=label)
    found = verify(versions[1], versions[0], tmp_path / "real.npz", max_drop=1.0).routing
    run = session(read_graph(versions[0]))
    answered = run({"x": x, "pinned_task": np.full(480, -1), "threshold": np.zeros(480, np.float32)})["label"]
    truth = np.concatenate([[0, 1, 2], [2, 3]])[label + 3 * task]
    for number, judged in enumerate(found.tasks):
        assert judged.old == pytest.approx((answered == truth)[task == number].mean())
    assert not any("swapped" in reason for reason in found.reasons)
    np.savez(tmp_path / "real.npz", x=x)
    agreed = verify(versions[0], versions[0], tmp_path / "real.npz").routing
    assert {t.new for t in agreed.tasks if t.rows} == {1.0}


@pytest.mark.parametrize("space", ["shared", "separate"])
def test_real_inputs_of_a_class_that_the_old_version_did_not_know_hide_no_loss_of_those_that_it_knew(
    space, versions, tmp_path
):
    """A revision has learned one class more, which the old version can only be wrong about."""
    old, new = versions[1:]
    if space == "separate":
        nets = [network(("abc", "de"), "separate", grown=grown) for grown in ("", "abcf")]
        old, new = (archived(net, tmp_path / str(i), f"{i}.0") for i, net in enumerate(nets))
    x, label = rows("abcf", 30, 240)[0].numpy(), np.arange(240) % 4
    known = label < 3
    for name, kept in (("all", label >= 0), ("known", known)):
        np.savez(tmp_path / name, x=x[kept], task=np.zeros(sum(kept), int), label=label[kept])
    judged, alone = (verify(new, old, tmp_path / f"{n}.npz").routing.tasks[0] for n in ("all", "known"))
    assert (judged.rows, judged) == (sum(known), alone)


def test_a_server_describes_classes_of_which_the_revision_that_answers_knows_nothing(versions):
    """Their probability is told, too: 0."""
    bundle = read_archive(versions[2]).bundle
    first = bundle.model_copy(update={"tasks": (*bundle.superseded, *bundle.tasks[1:])})
    told = answer(first)["properties"]
    assert list(told["label_probabilities"]["properties"]) == list("abcdef")
    assert told["label"]["enum"] == [*"abcdef", None]


def read_graph(path):
    return onnx.load_model_from_string(read_files(path)[1]["model.onnx"])


def test_a_prefix_answers_with_the_numbers_of_the_whole_graph(versions, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    net = network(grown="abcf")
    write_bundle(net, folder, name="net", model_version="1.0", prefixes=[1])
    x = rows("abc", 3)[0]
    found = session(onnx.load(folder / "prefix/1.onnx"))(
        {"x": x.numpy(), "pinned_task": np.zeros(36, np.int64)}
    )
    expected = net(x, torch.zeros(36, dtype=torch.int64))
    assert found["label"].tolist() == expected.label.tolist()
    assert np.allclose(found["label_probs"], expected.label_probs, rtol=0, atol=EXPORTED)


def without_a_class(bundle):
    bundle["classes"].pop()


def twice(bundle):
    bundle["classes"][1] = bundle["classes"][0]


def before_there_were_any(bundle):
    bundle["schema"] = "1.5.0"


def none(bundle):
    bundle["classes"] = []


@pytest.mark.parametrize("change", [without_a_class, twice, before_there_were_any, none])
def test_classes_that_can_not_be_those_of_the_tasks_are_refused(change, versions, tmp_path):
    with pytest.raises(ArchiveError, match="class"):
        read_archive(edited(versions[0], tmp_path / "net.mar", bundle=change))


def test_a_graph_that_answers_with_other_numbers_than_its_bundle_says_is_refused(versions, tmp_path):
    def swapped(bundle):
        bundle["classes"][:2] = bundle["classes"][1::-1]

    forged = edited(versions[0], tmp_path / "net.mar", bundle=swapped)
    assert any("does not route and answer" in r for r in verify(forged, versions[0]).reasons)


def test_a_handler_from_before_labels_were_shared_is_refused_with_such_a_bundle():
    """It would look the number of a class up among those of the task."""
    *_, old = [each for each in json.loads(RELEASES.read_text()) if "reads" not in each]
    todays = handler_files(RELEASES.parents[2] / "handlers")
    check_released(todays, minor=int(SCHEMA.split(".")[1]))
    with pytest.raises(ArchiveError, match=r"reads bundles of schema 1\.5, and this one needs 1\.6"):
        _check(old, minor=6)
    _check(old, minor=0)


def _check(release, minor):
    with patch("eideticnet.export.archive.releases._sums", lambda files: release["files"]):
        check_released({}, minor=minor)


def test_a_separate_network_is_exported_as_ever(tmp_path):
    write_bundle(trained(2), tmp_path, name="net", model_version="1.0")
    bundle = json.loads((tmp_path / "bundle.json").read_text())
    assert bundle["schema"] == "1.5.0"
    assert "classes" not in bundle


def test_a_worker_names_the_class_and_tells_the_probabilities_of_all(whole):
    folder, run = whole
    worker, x = Worker(folder), rows("ceb", 4, 6)[0].numpy()
    outputs = run(x, np.full(6, -1), np.zeros(6, np.float32))
    routed, pinned, tensors = worker.ask(
        [
            {"instances": x.tolist(), "top_k": 3, "probabilities": True},
            {"instances": x.tolist(), "task": "cd", "probabilities": True},
            {
                "inputs": [
                    {"name": "x", "shape": [6, FEATURES], "datatype": "FP32", "data": x.flatten().tolist()}
                ]
            },
        ]
    )
    classes = list(network().classes)
    for row, label, probs in zip(
        routed.body["predictions"], outputs["label"], outputs["label_probs"], strict=True
    ):
        assert row["label"] == classes[label]
        assert list(row["label_probabilities"]) == classes
        assert list(row["label_probabilities"].values()) == pytest.approx(probs.tolist(), abs=1e-5)
        assert row["top"][0] == {"label": row["label"], "probability": row["label_probability"]}
        assert row["label"] in row["task"]
    for row in pinned.body["predictions"]:
        assert (row["task"], row["pinned"]) == ("cd", True)
        assert {name for name, share in row["label_probabilities"].items() if share} == set("cd")
        assert Answer.model_validate(row).label in "cd"
    assert tensors.body["outputs"][1]["data"] == outputs["label"].tolist()


def test_a_copied_request_is_answered_otherwise_only_if_its_class_is_where_labels_are_shared():
    said = {"unknown": False, "pinned": False, "task_probability": 0.5, "label_probability": 1.0}
    old, task, label = (
        Answer(task=t, label=c, model_version="1", **said)
        for t, c in (("abc", "c"), ("cd", "c"), ("cd", "d"))
    )
    for shared, changed in ((True, 1), (False, 2)):
        found = Comparison()
        for new in (task, label):
            found.add(old, new, shared=shared)
        assert found.changed == changed


@pytest.mark.slow
def test_versions_whose_tasks_overlap_and_grow_take_over_on_a_real_server(versions, tmp_path):
    """And every answer is the class that the network gives, by its name."""
    nets = network(("abc", "cd")), network(), network(grown="abcf")
    x, _ = rows(KINDS, 3, 40)
    with Served(tmp_path / "home", versions[0]) as served:
        for number, (net, archive) in enumerate(zip(nets, versions, strict=True)):
            if number:
                deployed = served.command("deploy", archive, "--accept-unmeasured-routing")
                assert deployed.returncode == 0, deployed.stderr
            clear = (net(x).label_probs.topk(2, 1).values.diff(dim=1).abs() > 1e-4).flatten()
            mine = x[clear][:8]
            told = served.predict({"instances": mine.tolist(), "probabilities": True}).json()["predictions"]
            assert [row["label"] for row in told] == [net.classes[label] for label in net(mine).label]
            assert {row["model_version"] for row in told} == {f"{number}.0"}
            assert all(list(row["label_probabilities"]) == list(net.classes) for row in told)
        assert served.command("rollback").returncode == 0
        assert served.predict({"instances": x[:1].tolist()}).json()["predictions"][0]["label"] in "abcde"
