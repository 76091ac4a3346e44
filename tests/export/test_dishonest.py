"""Successors that keep every digest of an earlier task and yet break what its clients rely on."""

import json
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from eideticnet.contract.bundle import Bundle
from eideticnet.export.graph.prefix import cut
from eideticnet.export.graph.tail import ROUTER, TailRule, attach, detach, logits_name
from eideticnet.export.proof.verify import verify
from tests.support.archived_networks import PROVABLE, archived, edited, grown, reclaim
from tests.support.example_counts import often
from tests.support.zoo_networks import zoo_net


@pytest.fixture(scope="module", params=PROVABLE)
def versions(request, tmp_path_factory):
    """Versions of one layout: two tasks; a third one added; the first one revised."""
    folder, (old, added, revised) = tmp_path_factory.mktemp("versions"), grown()
    return (
        archived(old, folder / "old", "1.0", layout=request.param),
        archived(added, folder / "added", "2.0", prefixes=[1], layout=request.param),
        archived(revised, folder / "revised", "3.0", layout=request.param),
    )


def forged(archive: Path, destination: Path, change) -> Path:
    """A copy with a changed ``bundle.json``, and the tail and digests that belong to it."""
    with zipfile.ZipFile(archive) as file:
        bundle = json.loads(file.read("bundle.json"))
    change(bundle)

    def graph(model):
        held = [*bundle["tasks"], *bundle["superseded"]]
        heads = [logits_name(task["owner"]) for task in held]
        model.CopyFrom(attach(detach(model, [*heads, ROUTER]), TailRule.of(Bundle.model_validate(bundle))))
        kept = bundle["prefixes"]
        reclaim(bundle, model)
        bundle["prefixes"] = kept

    def replace(described):
        described.clear()
        described.update(bundle)

    return edited(archive, destination, graph, replace)


def refused(new, old):
    found = verify(new, old)
    assert found.verdict == "refused", found
    return " ".join(found.reasons)


def test_what_forging_changes_nothing_of_is_proven(versions, tmp_path):
    old, *newer = versions
    for archive in newer:
        assert verify(forged(archive, tmp_path / "net.mar", lambda bundle: None), old).verdict == "proven"


def test_a_task_that_stays_in_the_graph_but_no_longer_answers_is_refused(versions, tmp_path):
    def retire(bundle):
        bundle["superseded"].append(bundle["tasks"].pop(0))

    new = forged(versions[1], tmp_path / "net.mar", retire)
    assert "task 'task 0' no longer answers" in refused(new, versions[0])


def test_another_head_under_the_name_and_revision_of_a_task_is_refused(versions, tmp_path):
    """The true head is kept beside it, as if it were superseded."""

    def usurp(bundle):
        true, _, other = bundle["tasks"]
        bundle["superseded"].append(true)
        bundle["tasks"] = [{**other, "name": true["name"], "classes": true["classes"]}, bundle["tasks"][1]]

    new = forged(versions[1], tmp_path / "net.mar", usurp)
    assert "bundle.json lists task 'task 0' 2 times" in refused(new, versions[0])


@pytest.mark.parametrize("classes", [["class 1", "class 0"], ["renamed", "class 1"]])
def test_a_revision_that_answers_with_other_classes_is_refused(versions, tmp_path, classes):
    new = forged(versions[2], tmp_path / "net.mar", lambda b: b["tasks"][0].update(classes=classes))
    assert "task 'task 0' answers with the classes" in refused(new, versions[0])


def test_a_revision_that_no_longer_answers_is_still_run(versions):
    first = verify(versions[2], versions[0]).tasks[0]
    assert (first.answers, first.unchanged, first.bits, first.batch_sizes) == (False, True, True, (1, 8))


def test_fewer_instances_in_a_request_are_refused(versions, tmp_path):
    new = forged(versions[1], tmp_path / "net.mar", lambda b: b["limits"].update(max_instances=63))
    assert "export with --max-instances 64" in refused(new, versions[0])
    more = forged(versions[1], tmp_path / "net.mar", lambda b: b["limits"].update(max_instances=65))
    assert verify(more, versions[0]).verdict == "proven"


def test_smaller_images_are_refused(versions, tmp_path):
    old, new = (
        forged(archive, tmp_path / f"{pixels}.mar", lambda b, p=pixels: b["limits"].update(max_pixels=p))
        for archive, pixels in zip(versions[:2], (1000, 999), strict=True)
    )
    assert "an image may have 999 pixels, and 1000 before" in refused(new, old)
    assert verify(versions[1], old).verdict == "proven"


def test_a_missing_revision_is_refused_whatever_tools_made_the_graph(versions, tmp_path):
    """Other tools would explain another digest; that one is gone they don't."""

    def forget(bundle):
        bundle["superseded"].clear()
        bundle["tools"]["torch"] = "9.9"

    def without_its_head(model):
        model.CopyFrom(cut(model, [output.name for output in model.graph.output]))

    new = edited(versions[2], tmp_path / "net.mar", without_its_head, forget)
    assert "task 'task 0' is missing" in refused(new, versions[0])


@pytest.mark.parametrize("limit", [2, None])
def test_larger_batches_where_an_answer_depends_on_its_batchmates_are_refused(versions, tmp_path, limit):
    alone = {"model-config.yaml": b"batchSize: 1"}
    one, other = (
        edited(archive, tmp_path / f"{i}.mar", files=lambda held: held.update(alone))
        for i, archive in enumerate(versions[:2])
    )
    old = forged(one, tmp_path / "old.mar", lambda b: b["limits"].update(max_batch=1))
    new = other
    if limit:
        new = forged(other, tmp_path / "new.mar", lambda b: b["limits"].update(max_batch=limit))
    assert "max_batch 1 was the most" in refused(new, old)


def metadata(model):
    model.metadata_props.add(key="ort_config", value="{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (metadata, "holds metadata_props"),
        (lambda model: model.graph.value_info.add(name="x"), "holds value_info"),
        (lambda model: model.training_info.add(), "holds training_info"),
        (lambda model: model.functions.add(name="f", domain="d"), "holds functions"),
        (lambda model: model.graph.quantization_annotation.add(tensor_name="x"), "quantization_annotation"),
        (lambda model: setattr(model.graph.node[0], "overload", "a"), "holds overload"),
        (
            lambda model: model.graph.initializer.add(name="a", data_type=99, dims=[1], raw_data=b"a"),
            "can't be",
        ),
    ],
)
def test_parts_of_a_graph_that_no_digest_covers_are_refused(versions, tmp_path, change, message):
    new = edited(versions[1], tmp_path / "net.mar", change)
    assert message in refused(new, versions[0])


def idle_node(model):
    """It costs time and memory, and could be made to fail at some inputs."""
    model.graph.node.insert(0, onnx.helper.make_node("Exp", ["x"], ["idle"]))


def idle_chain(model):
    reader = next(i for i, n in enumerate(model.graph.node) if n.name.startswith("tail_"))
    model.graph.node.insert(reader, onnx.helper.make_node("MatMul", ["logits_t0", "idle"], ["idler"]))
    idle_tensor(model)


def idle_tensor(model):
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2), np.float32), "idle"))


@pytest.mark.parametrize("idle", [idle_node, idle_chain, idle_tensor])
def test_what_no_answer_needs_is_refused(versions, tmp_path, idle):
    old = versions[0]
    new = edited(versions[1], tmp_path / "net.mar", idle)
    assert "model.onnx holds nodes or tensors that no answer needs" in refused(new, old)


@pytest.mark.parametrize("idle", [idle_node, idle_tensor])
def test_what_no_answer_of_a_prefix_needs_is_refused(versions, tmp_path, idle):
    def change(files):
        model = onnx.load_model_from_string(files["prefix/1.onnx"])
        idle(model)
        files["prefix/1.onnx"] = model.SerializeToString()

    new = edited(versions[1], tmp_path / "net.mar", files=change)
    assert "prefix/1.onnx holds nodes or tensors that no answer needs" in refused(new, versions[0])


@pytest.mark.parametrize(
    ("kind", "precision"),
    often(
        product(["convolutions", "fused attention", "lstm"], ["float32", "float16", "int8"]),
        [("convolutions", "int8"), ("lstm", "float32")],
    ),
)
def test_what_is_exported_holds_nothing_that_no_answer_needs(tmp_path, kind, precision):
    archive = archived(zoo_net(kind), tmp_path / "net", precision=precision)
    assert verify(archive, archive).reasons == []
