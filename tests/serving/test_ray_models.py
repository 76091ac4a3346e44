"""What a replica of Ray Serve holds: versions beside each other, of which one answers. Without Ray."""

import threading
from hashlib import sha256

import numpy as np
import pytest

from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.state import CLOSED
from eideticnet.serving.ray.archives import fetched
from eideticnet.serving.ray.desired import Desired, Source
from eideticnet.serving.ray.metrics import Told
from eideticnet.serving.ray.models import ClosedError, Models, NotHeldError, by_version
from tests.support.archived_networks import edited
from tests.support.smallest_archive import small_archive


def source(path):
    return {"archive": str(path), "sha256": sha256(path.read_bytes()).hexdigest()}


def desired(default, **archives):
    """Of the model net, with versions by their names without the ``v``."""
    versions = {f"{name[1:]}.0": source(path) for name, path in archives.items()}
    return Desired.read({"models": {"net": {"default": default, "versions": versions}}})


@pytest.fixture
def models():
    return Models(lambda source: fetched(source, lambda sha256: None))


def version_of(models, asked=None):
    held = models.find("net", asked)
    x = held.archive.probes[held.archive.tasks[0].owner][0]
    headers = {"content-type": "application/octet-stream"}
    (reply,), _ = held.answer([("", headers, {"body": x.astype("<f4").tobytes()})])
    assert reply.status == 200
    return reply.body.decode().partition('"model_version":"')[2].partition('"')[0]


def test_a_version_is_loaded_beside_the_one_that_answers_and_takes_over_by_one_assignment(models, versions):
    models.bring_to(desired("1.0", v1=versions["1.0"]))
    begun = models.find("net")
    models.bring_to(desired("1.0", v1=versions["1.0"], v2=versions["2.0"]))
    assert models.find("net") is begun
    assert (version_of(models), version_of(models, "2.0")) == ("1.0", "2.0")
    models.bring_to(desired("2.0", v1=versions["1.0"], v2=versions["2.0"]))
    models.bring_to(desired("2.0", v2=versions["2.0"]))
    assert version_of(models) == "2.0"
    with pytest.raises(NotHeldError, match=r"model net has no version 1\.0; there are: 2\.0"):
        models.find("net", "1.0")
    x = np.zeros(begun.bundle["input"]["shape"], np.float32).tobytes()
    assert begun.answer([("", {"content-type": "application/octet-stream"}, {"body": x})])[0][0].status == 200


def test_what_can_not_be_held_leaves_the_version_that_answers_and_is_told(models, versions, tmp_path):
    models.bring_to(desired("1.0", v1=versions["1.0"]))
    other = tmp_path / "net-2.0.mar"
    other.write_bytes(versions["2.0"].read_bytes())
    wanted = desired("2.0", v2=other)
    other.write_bytes(versions["3.0"].read_bytes())
    models.bring_to(wanted)
    assert version_of(models) == "1.0"
    (problem,) = models.problems.values()
    assert "has SHA-256" in problem
    other.unlink()
    models.bring_to(wanted)
    assert version_of(models) == "1.0"
    (problem,) = models.problems.values()
    assert "can't be read: No such file" in problem
    other.write_bytes(versions["2.0"].read_bytes())
    models.bring_to(wanted)
    assert (version_of(models), models.problems) == ("2.0", {})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"schema": "2.0.0"}, r"bundle.json has schema 2.0.0; this version reads schema 1"),
        ({"name": "other"}, r"holds other 1.0, not net 1.0"),
    ],
)
def test_an_archive_that_this_runtime_does_not_know_is_refused_in_one_sentence(models, tmp_path, edit, words):
    path = small_archive(tmp_path / "net-1.0.mar", lambda bundle: bundle.update(edit))
    models.bring_to(desired("1.0", v1=path))
    (problem,) = models.problems.values()
    assert words in problem
    assert "\n" not in problem
    with pytest.raises(NotHeldError, match="no model 'net' is served here"):
        models.find("net")


def test_an_archive_that_can_run_code_is_held_only_where_that_is_allowed(models, store):
    path = store / "digits-torchscript-3.0.mar"
    held = {"default": "3.0", "versions": {"3.0": source(path)}}
    models.bring_to(Desired.read({"models": {"digits-torchscript": held}}))
    (problem,) = models.problems.values()
    assert "holds torchscript, which can run any code" in problem
    models.bring_to(Desired.read({"models": {"digits-torchscript": held}, "allow_torch": True}))
    assert not models.problems


def test_a_version_that_answers_wrongly_never_takes_over(models, versions, tmp_path, monkeypatch):
    models.bring_to(desired("1.0", v1=versions["1.0"]))
    liar = edited(versions["2.0"], tmp_path / "net-2.0.mar")
    monkeypatch.setattr("eideticnet.serving.ray.models.wrong", lambda *_: "it gave a wrong answer")
    models.bring_to(desired("2.0", v2=liar))
    assert models.problems == {("net", "2.0"): "it gave a wrong answer"}
    assert version_of(models) == "1.0"


def test_a_model_that_takes_no_more_work_still_answers_for_a_version_that_is_named(models, versions):
    held = desired("1.0", v1=versions["1.0"]).models["net"]
    models.bring_to(Desired(models={"net": held.model_copy(update={"default": CLOSED})}))
    with pytest.raises(ClosedError, match="model net takes no more requests here"):
        models.find("net")
    assert version_of(models, "1.0") == "1.0"


def test_a_batch_is_answered_version_by_version_and_in_order(models, versions):
    models.bring_to(desired("1.0", v1=versions["1.0"], v2=versions["2.0"]))
    one, two = models.find("net", "1.0"), models.find("net", "2.0")
    one.largest = two.largest = 2
    asked = [(held, ("", {}, {})) for held in (one, two, one, one, two)]
    assert by_version(asked) == [(one, [0, 2]), (one, [3]), (two, [1, 4])]


def test_requests_are_answered_all_the_time_while_versions_take_over_from_each_other(models, versions):
    models.bring_to(desired("1.0", v1=versions["1.0"]))
    seen, over = set(), threading.Event()

    def ask():
        while not over.is_set():
            seen.add(version_of(models))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for label in ("2.0", "3.0"):
            models.bring_to(desired(label, **{f"v{label[0]}": versions[label]}))
    finally:
        over.set()
        thread.join()
    assert "1.0" in seen
    assert seen <= {"1.0", "2.0", "3.0"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"models": {"net": {"versions": {}}}}, r"user_config: models.net.default is missing"),
        (
            {"models": {"net": {"default": "2.0", "versions": {}}}},
            r"models.net.default is '2.0'; its versions are none",
        ),
        (
            {
                "models": {
                    "net": {"default": "1.0", "versions": {"1.0": {"archive": "a.mar", "sha256": "abc"}}}
                }
            },
            "sha256",
        ),
        ({"modles": {}}, "modles is not known"),
        ([], "user_config"),
    ],
)
def test_a_user_config_that_is_wrong_is_refused_by_the_name_of_what_is(config, words):
    with pytest.raises(ServingError) as error:
        Desired.read(config)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_archive_comes_from_a_folder_a_store_or_memory_and_is_held_against_its_hash(versions, tmp_path):
    import fsspec

    data = versions["1.0"].read_bytes()
    digest = sha256(data).hexdigest()
    with fsspec.open("memory://shop/net-1.0.mar", "wb") as file:
        file.write(data)

    def got(archive, sha256=digest, memory=lambda _: None):
        return fetched(Source(archive=archive, sha256=sha256), memory)

    for archive in (str(versions["1.0"]), versions["1.0"].as_uri(), "memory://shop/net-1.0.mar"):
        assert got(archive) == data
        with pytest.raises(ServingError, match=f"has SHA-256 {digest}; expected 000"):
            got(archive, "0" * 64)
    assert got("ray:net-1.0.mar", memory={digest: data}.get) == data
    for archive, words in (
        ("ray:net-1.0.mar", "is not in Ray's memory yet"),
        ("memory://shop/other.mar", "can't be read"),
        (str(tmp_path), "can't be read"),
        ("http://127.0.0.1:9/net.mar", "can't be read"),
    ):
        with pytest.raises(Unavailable, match=words) as error:
            got(archive)
        assert "\n" not in str(error.value)
    with pytest.raises(ServingError, match="can't be read"):
        got("nonsense://net.mar")


def test_who_counts_while_a_model_goes_sees_it_whole(models, versions):
    models.bring_to(desired("1.0", v1=versions["1.0"], v2=versions["2.0"]))
    samples = Told(models).samples()
    begun = [next(samples) for _ in range(3)]
    models.bring_to(Desired())
    found = [*begun, *samples]
    default = {labels["version"]: value for name, labels, value in found if name == "eidetic_default"}
    assert default == {"1.0": 1.0, "2.0": 0.0}
    assert models.open() == []
