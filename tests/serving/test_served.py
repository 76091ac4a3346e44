"""A real TorchServe answers over real HTTP, in both formats."""

import concurrent.futures
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from eideticnet.export.archive.members import write_members
from eideticnet.export.archive.reader import read_archive, read_files
from eideticnet.export.errors import ArchiveError
from eideticnet.menu import app
from eideticnet.serving.errors import RequestError, ServingError
from eideticnet.serving.torchserve.process import TorchServe
from eideticnet.serving.torchserve.settings import environment
from tests.support.bare_torchserve import wait_until_ready, workers
from tests.support.eidetic_command import EIDETIC
from tests.support.own_ports import own_ports
from tests.support.served_process import alive
from tests.support.smallest_archive import FLAT
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
FORMATS = ["onnx", "torchscript"]


@pytest.fixture(scope="module")
def archives(archive, torchscript):
    return {"onnx": archive, "torchscript": torchscript}


@pytest.fixture(params=FORMATS)
def model(request, archives):
    return archives[request.param]


def probes(archive):
    return {t.name: archive.probes[t.owner].tolist() for t in archive.tasks}


def test_the_servers_java_lies_in_the_environment_and_not_on_the_machine(server):
    java = Path(psutil.Process(server.pid).exe()).resolve()
    assert java.is_relative_to(Path(sys.prefix).resolve())


def test_a_prediction_without_a_task_id_names_task_label_and_version(client, model):
    for task in model.tasks:
        answers = [client.predict(model.name, {"data": row}) for row in probes(model)[task.name]]
        assert {a["model_version"] for a in answers} == {"3.0"}
        assert sum(a["task"] == task.name for a in answers) >= 6
        assert all(a["label"] in next(t for t in model.tasks if t.name == a["task"]).classes for a in answers)


def test_workers_run_the_runtime_of_their_archive_though_another_one_is_found_first(
    client, model, another_runtime
):
    client.predict(model.name, {"data": probes(model)["0 or 1"][0]})
    assert not (another_runtime / "found").exists()
    code = "import eidetic_runtime.model"
    env = {**os.environ, "PYTHONPATH": str(another_runtime)}
    subprocess.run([sys.executable, "-c", code], env=env, cwd=another_runtime, check=True)
    assert (another_runtime / "found").read_text() == "eidetic_runtime.model"  # so it would have been seen
    (another_runtime / "found").unlink()


def test_an_archive_whose_handler_is_flat_files_is_served_beside_todays(client):
    archive = read_archive(FLAT)
    answer = client.predict("net", {"data": archive.probes["t0"][0].tolist()})
    assert (answer["task"], answer["model_version"]) == (archive.tasks[0].name, "1.0")


def test_workers_know_no_handler_but_their_archives(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "handlers"), str(tmp_path), ""]))
    assert environment(tmp_path, tmp_path)["PYTHONPATH"] == str(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "handlers"))
    assert "PYTHONPATH" not in environment(tmp_path, tmp_path)


def test_both_formats_answer_alike(client, archives):
    rows = sum(probes(archives["onnx"]).values(), [])
    for row in rows[:6]:
        a, b = (client.predict(archives[f].name, {"data": row}) for f in FORMATS)
        assert (a["task"], a["label"]) == (b["task"], b["label"])
        assert a["label_probability"] == pytest.approx(b["label_probability"], abs=1e-5)


def test_many_instances_and_a_pinned_task(client, model):
    rows = probes(model)["4 or 5"][:4]
    answer = client.predict(model.name, {"instances": rows, "task": "0 or 1"})
    assert [p["task"] for p in answer["predictions"]] == ["0 or 1"] * 4


@pytest.mark.parametrize(
    ("content", "status", "field", "words"),
    [
        (b"not json", 400, "body", "not JSON"),
        (b'{"data": [1, 2]}', 400, "data", "expected [64]"),
        (b'{"data": [' + b"NaN, " * 63 + b"1]}", 400, "data[0]", "finite"),
        (b'{"data": [' + b"0, " * 63 + b'0], "task": "9"}', 400, "task", "'0 or 1'"),
        (b'{"instances": [' + b"[0], " * 5 + b"[0]]}", 413, "instances", "at most 5"),
    ],
)
def test_a_bad_request_gets_a_4xx_that_names_the_field(server, model, content, status, field, words):
    url = f"{server.ports.inference_url}/predictions/{model.name}"
    headers = {"Authorization": f"Bearer {server.keys()['inference']}", "Content-Type": "application/json"}
    response = httpx.post(url, content=content, headers=headers, timeout=PATIENCE, trust_env=False)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["error"]["field"] == field
    assert words in response.json()["error"]["message"]


def test_bad_requests_among_good_ones_sent_at_once_disturb_nobody(client, model):
    rows = sum(probes(model).values(), [])
    alone = [client.predict(model.name, {"data": row}) for row in rows]

    def send(i):
        if i % 3 == 2:
            with pytest.raises(RequestError) as error:
                client.predict(model.name, {"data": rows[i % len(rows)][:-1]})
            return error.value.status
        return client.predict(model.name, {"data": rows[i % len(rows)]})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(240)))
    for i, answer in enumerate(answers):
        if i % 3 == 2:
            assert answer == 400
        else:
            expected = alone[i % len(rows)]
            assert (answer["task"], answer["label"]) == (expected["task"], expected["label"])


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_without_the_token_nothing_is_answered(server, model, headers):
    url = f"{server.ports.inference_url}/predictions/{model.name}"
    response = httpx.post(url, json={"data": [0] * 64}, headers=headers, timeout=PATIENCE, trust_env=False)
    assert response.status_code == 400
    assert "label" not in response.text


def test_everything_listens_on_loopback_alone_and_nothing_for_metrics(server):
    listening = [
        c for p in [psutil.Process(server.pid)] for c in p.net_connections("tcp") if c.status == "LISTEN"
    ]
    assert len(listening) == 4  # none for metrics, which would ask for no key
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_two_instances_run_side_by_side_and_each_leaves_nothing_behind(server, archives):
    other = TorchServe([archives["onnx"]], own_ports())
    try:
        with wait_until_ready(other, [archives["onnx"]]) as client:
            assert client.predict("digits-onnx", {"data": [0] * 64})["model_version"] == "3.0"
        processes = [p for p in psutil.process_iter() if _group(p.pid) == other.pid]
        assert len(processes) >= 2
    finally:
        other.stop()
    assert not other.home.exists()
    until(lambda: not any(alive(process.pid) for process in processes))  # and with them all that listened
    assert server.running


def test_a_model_that_can_not_be_loaded_is_a_clear_error_and_leaves_nothing(store, tmp_path):
    good, members = read_files(store / "digits-onnx-3.0.mar")
    archive = replace(good, path=tmp_path / "broken-3.0.mar")  # changed after it was read
    write_members({**members, "model.onnx": b"not a graph"}, archive.path)
    with TorchServe([archive], own_ports()) as running:
        with pytest.raises(ServingError, match=r"digits-onnx 3\.0 gave no prediction within 3 s"):
            wait_until_ready(running, [archive], 3)
    assert not running.home.exists()


def test_what_is_no_archive_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "x.mar").write_bytes(b"nonsense")
    with pytest.raises(ArchiveError, match=r"x\.mar"):
        read_archive(tmp_path / "x.mar")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keys", "."], "is a folder; expected the file"),
        (["--keys", "{tmp}/pipe"], "/pipe is no ordinary file, and is not replaced by one"),
        (["--host", "::1"], "takes no IPv6 address"),
        (["--management-host", "8.8.8.8"], "no port can be had at 8.8.8.8"),
        (["--silence-seconds", "nan"], "nan is no time to wait"),
        (["--stop-seconds", "-1"], "-1.0 is no time to wait"),
        (["--startup-seconds", "inf"], "inf is no time to wait"),
    ],
)
def test_a_server_that_could_not_start_is_refused_before_its_home_is_made(options, words, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    options = [option.format(tmp=tmp_path) for option in options]
    result = CliRunner().invoke(app, ["serve", "--home", str(tmp_path / "home"), *options])
    assert result.exit_code != 0
    assert words in f"{result.output} {result.exception}"
    assert not (tmp_path / "home").exists()


def test_an_archive_that_was_tampered_with_is_refused_before_anything_starts():
    attack = ROOT / "tests/export/attacks/flipped-bit-with-its-checksum.mar"
    result = subprocess.run(
        [EIDETIC, "serve", str(attack)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: {attack}: the SHA-256 of 'model.onnx' is not the one that bundle.json states\n"
    )


def test_a_killed_worker_comes_back_by_itself(server, client, archives):
    name = archives["onnx"].name
    for worker in workers(server):
        worker.kill()

    def answered():
        with suppress(ServingError):
            # a request that TorchServe loses with its worker is never answered
            return client.predict(name, {"data": [0] * 64}, deadline=20.0)["model_version"] == "3.0"

    until(answered)


def _group(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_a_worker_of_an_onnx_graph_never_loads_torch_and_one_of_torchscript_does(server, archives):
    wait_until_ready(server, list(archives.values())).close()
    found = until(lambda: len(all_ := workers(server)) == 4 and all_)
    loaded = sorted(any("libtorch" in m.path for m in p.memory_maps()) for p in found)
    assert loaded == [False, False, False, True]
