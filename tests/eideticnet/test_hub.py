"""A network goes to the Hugging Face Hub and comes back with the same bits."""

import builtins

import pytest
import torch
from huggingface_hub import ModelCard, constants

from eideticnet import CheckpointError, DataError, EideticNetwork, Routing, TaskReport
from eideticnet.errors import MissingExtraError
from tests.support import fake_hub
from tests.support.small_networks import LIGHT, QUICK, held_out, names, task_loader, trained


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub.served() as (found, url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


def same(net, other):
    return all(torch.equal(a, b) for a, b in zip(net(held_out()), other(held_out()), strict=True))


def test_what_is_pushed_is_fetched_with_the_same_bits(hub):
    net = trained(2)
    net.push_to_hub("me/digits", token="hf_x", license="apache-2.0")
    found = EideticNetwork.from_pretrained("me/digits")
    assert same(net, found)
    assert found.digests() == net.digests()


def test_another_task_sends_no_frozen_block_again_and_removes_what_went(hub):
    net = trained(2)
    net.push_to_hub("me/digits", token="hf_x")
    first, commits = set(hub.repositories["me/digits"][-1]), hub.repositories["me/digits"]
    hub.sent.clear()
    net.train_task("third", task_loader(8), names(2), training=QUICK, pruning=LIGHT)
    net.push_to_hub("me/digits", token="hf_x")
    assert len(commits) == 2
    assert not [path for path in hub.sent if path.startswith(("t0", "t1"))]
    assert [path for path in first - set(commits[-1]) if path.startswith("router")]
    old = EideticNetwork.from_pretrained("me/digits", revision=hub.sha(0))
    assert len(old.tasks) == 2
    assert len(EideticNetwork.from_pretrained("me/digits").tasks) == 3


def test_what_else_a_repository_holds_stays_there(hub):
    net, others = trained(2), {"model.safetensors": b"mine", "teacher/weights-1.safetensors": b"mine, too"}
    net.push_to_hub("me/digits", token="hf_x")
    hub.repositories["me/digits"][-1] |= others
    net.fit_router(routing=Routing("none", "entropy"))
    net.push_to_hub("me/digits", token="hf_x")
    after = hub.repositories["me/digits"][-1]
    assert others.items() <= after.items()
    assert not [path for path in after if path.startswith("router")]
    assert same(net, EideticNetwork.from_pretrained("me/digits"))


def test_only_numbers_and_json_are_fetched(hub):
    net = trained(1)
    net.push_to_hub("me/digits", token="hf_x")
    hub.repositories["me/digits"][-1]["evil.py"] = b"raise SystemExit"
    hub.asked.clear()
    EideticNetwork.from_pretrained("me/digits")
    assert {path.rpartition(".")[2] for path in hub.asked if "/resolve/" in path} == {"json", "safetensors"}


def test_a_network_that_was_changed_on_the_hub_is_refused(hub):
    net = trained(1)
    net.push_to_hub("me/digits", token="hf_x")
    files = hub.repositories["me/digits"][-1]
    name = next(path for path in files if path.startswith("t0"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    with pytest.raises(CheckpointError, match=name):
        EideticNetwork.from_pretrained("me/digits")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("me/nothing", "can't fetch 'me/nothing'"),
        ("no such/name", "can't fetch 'no such/name'"),
        ("a/b/c", "a/b/c: there is no such folder"),  # which no repository is called
    ],
)
def test_a_repository_that_is_not_there_is_told_in_a_line(name, told, hub):
    with pytest.raises(CheckpointError, match=told) as error:
        EideticNetwork.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_without_a_network_what_was_fetched_once_is_still_there(hub, tmp_path):
    net = trained(1)
    net.push_to_hub("me/digits", token="hf_x")
    EideticNetwork.from_pretrained("me/digits")
    assert same(net, EideticNetwork.from_pretrained("me/digits", local_files_only=True))
    with pytest.raises(CheckpointError, match="can't fetch"):
        EideticNetwork.from_pretrained("me/digits", local_files_only=True, cache_dir=tmp_path / "empty")


def test_a_saved_folder_is_a_checkpoint_with_a_card(tmp_path):
    net = trained(2)
    reports = {task.name: TaskReport(0.9 + i / 100, 0.8, 0.85) for i, task in enumerate(net.tasks)}
    net.save_pretrained(tmp_path / "two", reports=reports, license="apache-2.0", datasets=["digits"])
    assert same(net, EideticNetwork.from_pretrained(tmp_path / "two"))
    card = ModelCard.load(tmp_path / "two/README.md")
    assert (card.data.library_name, card.data.license) == ("eideticnet", "apache-2.0")
    told = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results}
    for name, report in reports.items():
        assert told[name, "task given"] == report.oracle
        assert told[name, "task found by the network"] == report.routed
    for digest in net.digests().values():
        assert digest[:16] in card.text
    assert str(net.capacity().arithmetic) in card.text


def test_a_card_says_that_examples_are_kept(tmp_path):
    net = trained(1)
    net.train_task("kept", task_loader(2), names(2), training=QUICK, pruning=LIGHT, memory=4)
    net.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "Holds training examples**: 4" in text
    assert "not measured" in text


def test_a_card_tells_what_a_run_measured_until_the_network_learns_something(tmp_path):
    net = trained(2)
    recorded = {task.name: {"oracle": 0.875, "routed": 0.75, "found": 0.8} for task in net.tasks}
    net.metadata = {"report": recorded, "measured": net.state()}
    net.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text().count("| 0.8750 | 0.7500 |") == 2
    net.fit_router(routing=Routing("none", "entropy"))
    net.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text().count("| not measured | not measured |") == 2


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": "mine", "report": "good"},
        {"config": {"tasks": 3}, "report": {"task 0": {}}},
        {"config": {"tasks": [{"name": "task 0"}]}, "report": {"task 0": {"oracle": "high", "routed": 1}}},
    ],
)
def test_a_card_does_not_stumble_over_what_its_user_keeps_in_the_metadata(metadata, tmp_path):
    net = trained(1)
    net.metadata = metadata
    net.save_pretrained(tmp_path)
    assert "| not measured | not measured |  |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        (["task 0"], "reports"),
        ({"task 0": 0.9}, "'task 0' has 0.9; give what `evaluate` returns"),
        ({"task 7": TaskReport(1.0, 1.0, 1.0)}, "task 7"),
    ],
)
def test_reports_that_are_none_are_refused_before_anything_is_written(reports, message, tmp_path):
    with pytest.raises(DataError, match=message):
        trained(1).save_pretrained(tmp_path, reports=reports)
    assert not list(tmp_path.iterdir())


def test_a_revision_is_asked_of_the_hub_and_no_folder(hub, tmp_path, monkeypatch):
    net = trained(2)
    net.push_to_hub("me/digits", token="hf_x")
    monkeypatch.chdir(tmp_path)
    trained(1).save("me/digits")
    assert same(net, EideticNetwork.from_pretrained("me/digits", revision=hub.sha(0)))


def test_a_card_that_someone_else_wrote_stays(tmp_path):
    net = trained(1)
    net.save_pretrained(tmp_path)
    first = (tmp_path / "README.md").read_text()
    net.train_task("more", task_loader(2), names(2), training=QUICK, pruning=LIGHT)
    net.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() != first
    (tmp_path / "README.md").write_text("mine")
    net.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_is_missing_for_the_hub_is_told(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "huggingface_hub":
            raise ModuleNotFoundError("no", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"eideticnet\[hub\]"):
        trained(1).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["./gone", "/gone", "~/gone", "runs/of/three"])
def test_a_folder_that_is_not_there_is_no_repository(name, tmp_path):
    for path in (name, tmp_path / "gone"):
        with pytest.raises(CheckpointError, match=r"(gone|three): there is no such folder"):
            EideticNetwork.from_pretrained(path)
    with pytest.raises(CheckpointError, match="a folder has no revisions"):
        EideticNetwork.from_pretrained(tmp_path, revision="main")


def test_a_name_that_may_be_both_is_told_to_be_no_folder_here(hub):
    with pytest.raises(CheckpointError, match="can't fetch 'runs/three', which is no folder here: "):
        EideticNetwork.from_pretrained("runs/three")


def test_a_network_is_saved_into_a_folder_of_its_own_or_a_clone_of_a_repository(tmp_path):
    net, work, clone = trained(1), tmp_path / "work", tmp_path / "clone"
    for folder in (work, clone):
        folder.mkdir()
    (work / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match=r"work holds 'thesis\.tex', and no checkpoint"):
        net.save_pretrained(work)
    assert [path.name for path in work.iterdir()] == ["thesis.tex"]
    (clone / ".gitattributes").write_text("")
    (clone / "README.md").write_text("")
    for _ in range(2):  # also over what it wrote
        net.save_pretrained(clone)
    assert EideticNetwork.from_pretrained(clone).digests() == net.digests()
