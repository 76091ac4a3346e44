"""The files for clusters are read by those who read them, Ray Serve's schema and a replica; and the names
that they hold lead somewhere."""

import copy
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import yaml

from eideticnet.client import Client
from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.errors import RequestError, ServingError
from eideticnet.serving.processes.groups import end_group
from eideticnet.serving.ray.desired import Desired
from eideticnet.serving.ray.grpc import GRPC_SERVICERS
from eideticnet.serving.ray.settings import environment
from tests.support.clone import PROJECT
from tests.support.own_ports import own_ports
from tests.support.waiting import until

pytestmark = [pytest.mark.slow]  # Ray is imported

FOLDER = Path(__file__).parents[2] / "operations/ray"
SERVICE = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
CONFIGS = {
    "serve.yaml": yaml.safe_load((FOLDER / "serve.yaml").read_text()),
    "rayservice.yaml": yaml.safe_load(SERVICE["spec"]["serveConfigV2"]),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_ray_serve_reads_the_configuration_and_a_replica_its_own_part(config):
    from ray.serve.schema import ServeDeploySchema

    read = ServeDeploySchema.model_validate(config)
    (application,) = read.applications
    module, _, name = application.import_path.partition(":")
    (deployment,) = application.deployments
    assert getattr(import_module(module), name)._bound_deployment.name == deployment.name
    desired = Desired.read(deployment.user_config)
    assert [(model, version) for model, version, _ in desired.sources()] == [("digits", "5.0")]
    assert read.grpc_options.grpc_servicer_functions == GRPC_SERVICERS


def test_both_files_deploy_the_same():
    one, other = (config["applications"] for config in CONFIGS.values())
    assert one == other


def test_every_node_has_the_variables_that_a_ray_of_one_machine_has(tmp_path):
    spec = SERVICE["spec"]["rayClusterConfig"]
    templates = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for template in templates:
        (container,) = template["template"]["spec"]["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables.items() <= environment(tmp_path, {}).items()
        assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in variables
    assert f"ray=={spec['rayVersion']}" in (FOLDER.parents[1] / "requirements/constraints.txt").read_text()
    assert "ray" in PROJECT["project"]["optional-dependencies"]


def test_serve_run_serves_the_archive_that_the_file_names_by_its_sha256(versions, colours):
    """As its users run it, with another archive, token and ports; one with another SHA-256 is not served."""
    config, ports, archive = copy.deepcopy(CONFIGS["serve.yaml"]), own_ports(), read_archive(versions["1.0"])
    config["http_options"]["port"], config["grpc_options"]["port"] = ports.inference, ports.grpc_inference
    (deployment,) = config["applications"][0]["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    told = deployment["user_config"]
    told["token_sha256"] = sha256(b"mine").hexdigest()
    source = {"archive": str(archive.path), "sha256": sha256(archive.path.read_bytes()).hexdigest()}
    other = {"archive": str(colours.path), "sha256": source["sha256"]}
    told["models"] = {"net": {"default": "1.0", "versions": {"1.0": source, "2.0": other}}}
    x = archive.probes[archive.tasks[0].owner][:2]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # whose name is short enough for sockets
        (Path(folder) / "serve.yaml").write_text(yaml.safe_dump(config))
        (Path(folder) / "haproxy").mkdir()
        options = f"object_store_memory={80 << 20}, num_cpus=2, include_dashboard=False, _temp_dir={folder!r}"
        code = (
            f"import ray; ray.init({options}); from ray.serve.scripts import cli; cli(['run', 'serve.yaml'])"
        )
        log, variables = Path(folder) / "log", environment(Path(folder), {})
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=folder, env=variables, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        try:
            with Client(f"http://127.0.0.1:{ports.inference}", "mine") as client:
                answers = until(lambda: process.poll() is not None or answered(client, x))
                assert process.poll() is None, log.read_text()
                assert {answer.model_version for answer in answers} == {"1.0"}
                with pytest.raises(RequestError, match="no version"):
                    client.predict("net", x, version="2.0")
        finally:
            process.send_signal(signal.SIGINT)  # as Ctrl-C ends it
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            end_group(process)
            for left in psutil.process_iter(["cmdline"]):  # its proxy, where that had no time
                if folder in " ".join(left.info["cmdline"] or ()):
                    left.kill()


def answered(client, x):
    with suppress(ServingError):
        return client.predict("net", x)
    return None
