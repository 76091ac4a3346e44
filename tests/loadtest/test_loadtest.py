"""The load test passes when its objectives are met, and fails when one is missed."""

import json
import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.loadtest.objectives import LoadPlan, Measured, Objectives, read_plan
from eideticnet.loadtest.payloads import Checked, RequestMaker, is_answer
from eideticnet.loadtest.results import Hotload, Samples, summary
from eideticnet.loadtest.shapes import SHAPES, users_at
from tests.support.eidetic_command import EIDETIC
from tests.support.own_ports import with_own_ports
from tests.support.served_process import changed

ROOT = Path(__file__).parents[2]
OBJECTIVES = Objectives(max_p50_ms=10, max_p99_ms=50, max_error_rate=0.01, min_requests=100)
ANSWER = {
    "task": "t",
    "label": "a",
    "unknown": False,
    "pinned": False,
    "model_version": "1.0",
    "task_probability": 0.5,
    "label_probability": 0.5,
}
UNKNOWN = {**ANSWER, **dict.fromkeys(("task", "label", "label_probability")), "unknown": True}
HALF = {**ANSWER, "unknown": True}


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (Measured(1000, 0, 5, 20), []),
        (Measured(1000, 10, 10, 50), []),
        (Measured(1000, 0, 11, 20), ["p50 is 11"]),
        (Measured(1000, 0, 5, 51), ["p99 is 51"]),
        (Measured(1000, 11, 5, 20), ["error rate is 0.011"]),
        (Measured(99, 0, 5, 20), ["only 99 requests"]),
        (Measured(0, 0, 0, 0), ["error rate", "only 0 requests"]),
    ],
)
def test_each_missed_objective_gets_a_line(measured, words):
    lines = OBJECTIVES.missed(measured)
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_the_committed_plan_can_be_read(tmp_path):
    plan = read_plan(ROOT / "loadtest/objectives.toml")
    assert plan.objectives.max_error_rate == plan.parts["hotload"].max_error_rate == 0.0
    assert set(plan.kinds) == {"json", "raw", "grpc"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("users = 3", "it has no [objectives]"),
        (
            "users = 3\nseconds = 2\nshape = 'round'\n[objectives]\n",
            "shape is 'round': it should be 'steady', 'ramp'",
        ),
        (
            "users = 3\nseconds = 2\nkinds = {soap = 1}\n[objectives]\n",
            "kinds soap is 'soap': it should be 'json', 'raw'",
        ),
        ("users = 3\nseconds = 2\n[objectives]\n[objectives.soap]\n", "parts soap is 'soap': it should be"),
        ("users = true\nseconds = 2\n[objectives]\n", "users is True: it should be a valid integer"),
        ("users = 3\nseconds = 2\nlength = 1\n[objectives]\n", "length is 1: Unexpected keyword argument"),
        ("users = 3\nseconds = 2\n[objectives]\n[objectives.raw]\nmax_p50_ms = '9'\n", "max_p50_ms is '9'"),
        ("users = ", "Invalid value"),
    ],
)
def test_a_plan_that_is_wrong_is_named(tmp_path, text, words):
    known = "max_p50_ms = 1\nmax_p99_ms = 1\nmax_error_rate = 0\nmin_requests = 1\n"
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace("[objectives]\n", f"[objectives]\n{known}"))
    with pytest.raises(ValueError, match=r"wrong\.toml") as error:
        read_plan(path)
    assert words in str(error.value)


@given(
    st.sampled_from(sorted(SHAPES)), st.integers(1, 500), st.floats(1, 1e5), st.floats(0, 1, exclude_max=True)
)
def test_there_is_always_a_user_and_never_one_too_many_until_the_end(shape, users, seconds, moment):
    count = users_at(shape, min(moment * seconds, np.nextafter(seconds, 0)), users, seconds)
    assert count is not None
    assert 1 <= count <= users
    assert users_at(shape, seconds, users, seconds) is None


def test_shapes_are_what_they_are_called():
    counts = {shape: [users_at(shape, t, 100, 10) for t in range(10)] for shape in SHAPES}
    assert set(counts["steady"]) == {100}
    assert counts["ramp"] == sorted(counts["ramp"])
    assert counts["ramp"][1] == 10
    assert counts["spike"] == [25] * 4 + [100] * 2 + [25] * 4
    assert set(counts["soak"]) == {50}


def test_every_payload_is_another_with_the_same_numbers(monkeypatch, tmp_path):
    np.save(tmp_path / "example.npy", np.arange(16, dtype="<f4").reshape(2, 8))
    monkeypatch.setenv("EIDETIC_EXAMPLE", str(tmp_path / "example.npy"))
    monkeypatch.setenv("EIDETIC_INPUT", json.dumps({"dtype": "float32", "shape": [2, 8]}))
    inputs, rng = RequestMaker.from_environment(), np.random.default_rng(0)
    sent = [inputs.raw(rng) for _ in range(50)]
    assert len(set(sent)) == 50
    assert {tuple(sorted(np.frombuffer(raw, "<f4"))) for raw in sent} == {tuple(range(16))}
    assert np.shape(json.loads(inputs.json(rng))["data"]) == (2, 8)


def test_an_answer_that_can_not_be_right_is_a_failure():
    checked = Checked()
    assert checked.problem("x", ANSWER) == ""
    assert checked.problem("x", ANSWER) == ""
    assert "two answers" in checked.problem("x", {**ANSWER, "label": "b"})
    assert checked.problem("x", {**ANSWER, "label": "b", "model_version": "2.0"}) == ""
    for wrong in (None, [], {}, {**ANSWER, "label": None}, {**ANSWER, "label_probability": 2.0}, HALF):
        assert not is_answer(wrong)
        assert "no answer" in checked.problem("y", wrong)


def test_that_no_task_is_known_is_an_answer_too():
    checked = Checked()
    assert checked.problem("x", UNKNOWN) == checked.problem("x", UNKNOWN) == ""
    assert "two answers" in checked.problem("x", ANSWER)


def test_what_was_on_its_way_during_a_deploy_is_judged_by_itself():
    samples = Samples(
        started=np.array([0.0, 9.5, 11.0, 13.0]),
        ms=np.array([10.0, 1000.0, 2000.0, 10.0]),
        kind=np.array(["json", "raw", "raw", "json"]),
        version=np.array(["1.0", "1.0", "2.0", "2.0"]),
        failure=np.array(["", "", "", "status 503"]),
    )
    lax, strict = Objectives(1e4, 1e4, 1, 0), Objectives(500, 500, 0, 3)
    plan = LoadPlan(1, 20, lax, parts={"hotload": strict})
    found = summary(plan, samples, Hotload("x.mar", 10.0, 12.0, 0))
    assert {part: f["requests"] for part, f in found["parts"].items()} == {
        "all": 4,
        "json": 2,
        "raw": 2,
        "hotload": 2,
        "outside": 2,
    }
    assert found["parts"]["outside"]["failures"] == 1
    assert [line.split(" is ")[0] for line in found["missed"]] == [
        *("hotload: p50", "hotload: p99", "hotload: only 2 requests, needs 3")
    ]
    assert summary(plan, samples, None)["missed"] == ["hotload: was not measured"]
    failed = summary(plan, samples, Hotload("x.mar", 0.0, 0.0, 1))
    assert "hotload: the deploy ended with status 1" in failed["missed"]


def served(archives, home, *commands):
    """What the commands wrote that ran beside a server."""
    start = [*changed(), "serve", *map(str, archives), "--home", str(with_own_ports(home))]
    result = subprocess.run(
        [*start, "--run", "; ".join(commands)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def loadtest(folder, text, *options):
    folder.mkdir()
    (folder / "plan.toml").write_text(text)
    command = [
        EIDETIC,
        "loadtest",
        "--plan",
        folder / "plan.toml",
        "--out",
        folder,
        *options,
    ]
    return f"{' '.join(map(str, command))}; echo {folder.name} exits with $?"


def test_a_real_load_meets_reachable_objectives_and_misses_unreachable_ones(store, tmp_path):
    text = (
        "users = 4\nseconds = 3\nkinds = {json = 1, raw = 1, grpc = 1}\n[objectives]\nmin_requests = 5\n"
        "max_error_rate = 0.0\nmax_p50_ms = 5000\nmax_p99_ms = 20000\n"
    )
    told = served(
        [store / "digits-onnx-3.0.mar"],
        tmp_path / "home",
        loadtest(tmp_path / "reachable", text),
        loadtest(tmp_path / "unreachable", text + "[objectives.grpc]\nmax_p50_ms = 0\n"),
    )
    assert "all objectives met" in told
    assert "reachable exits with 0" in told
    assert "objective missed: grpc: p50" in told
    assert "unreachable exits with 1" in told
    found = json.loads((tmp_path / "reachable/summary.json").read_text())
    assert found["versions"] == {"3.0": found["parts"]["all"]["requests"]}
    assert {kind for kind in ("json", "raw", "grpc") if found["parts"][kind]["requests"]} == set(
        found["plan"]["kinds"]
    )
    assert found["parts"]["all"]["requests"] == len(Samples.read(tmp_path / "reachable/samples.csv").ms)
    assert ElementTree.parse(tmp_path / "reachable/load.svg").getroot().tag.endswith("svg")


@pytest.mark.slow
def test_a_version_deployed_under_load_loses_no_request(digits_run, store, tmp_path):
    from eideticnet import EideticNetwork
    from eideticnet.export.archive.writer import write_archive
    from eideticnet.export.bundle.writer import write_bundle

    (tmp_path / "bundle").mkdir()
    write_bundle(
        EideticNetwork.load(digits_run), tmp_path / "bundle", name="digits-onnx", model_version="3.1"
    )
    write_archive(tmp_path / "bundle", ROOT / "handlers", tmp_path / "next-3.1.mar")
    text = (
        "users = 4\nseconds = 40\nkinds = {json = 1, raw = 1, grpc = 1}\n[objectives]\nmin_requests = 5\n"
        "max_error_rate = 0.0\nmax_p50_ms = 5000\nmax_p99_ms = 20000\n"
    )
    deploy = ("--deploy", tmp_path / "next-3.1.mar", "--accept-unmeasured-routing")
    told = served(
        [store / "digits-onnx-3.0.mar"], tmp_path / "home", loadtest(tmp_path / "load", text, *deploy)
    )
    found = json.loads((tmp_path / "load/summary.json").read_text())
    assert "load exits with 0" in told, found["missed"]
    assert found["parts"]["all"]["failures"] == 0
    assert found["versions"].keys() == {"3.0", "3.1"}
    assert found["parts"]["hotload"]["requests"] > 0


@pytest.mark.slow
def test_users_send_pictures_to_a_network_that_takes_them(tmp_path):
    from eideticnet.export.archive.writer import write_archive
    from eideticnet.export.bundle.writer import write_bundle
    from tests.support import pictures

    (tmp_path / "bundle").mkdir()
    write_bundle(
        pictures.network(tmp_path / "files"), tmp_path / "bundle", name="pictures", model_version="1.0"
    )
    write_archive(tmp_path / "bundle", ROOT / "handlers", tmp_path / "pictures-1.0.mar")
    text = (
        "users = 2\nseconds = 3\nshape = 'spike'\nkinds = {image = 1, json = 1}\n"
        "[objectives]\nmin_requests = 5\n"
        "max_error_rate = 0.0\nmax_p50_ms = 5000\nmax_p99_ms = 20000\n"
    )
    told = served([tmp_path / "pictures-1.0.mar"], tmp_path / "home", loadtest(tmp_path / "load", text))
    assert "load exits with 0" in told


def test_a_plan_with_objectives_for_a_deploy_is_refused_without_one():
    command = [EIDETIC, "loadtest"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "--deploy ARCHIVE" in result.stderr


def test_make_loadtest_deploys_another_version_in_the_middle():
    command = ["make", "-n", "loadtest"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--model-version 5.1" in made
    assert "eidetic loadtest --deploy $next" in made


def test_without_a_server_the_load_test_says_how_to_get_one():
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EIDETIC_")}
    result = subprocess.run(
        [EIDETIC, "loadtest", "--deploy", "x.mar"],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "eidetic serve" in result.stderr
    assert "EIDETIC_GRPC" in result.stderr
