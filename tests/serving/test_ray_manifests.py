"""The files for clusters are read by those who read them, Ray Serve's schema and a replica; and the names
that they hold lead somewhere."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from eideticnet.serving.ray.desired import Desired
from eideticnet.serving.ray.grpc import GRPC_SERVICERS
from eideticnet.serving.ray.settings import environment
from tests.support.clone import PROJECT

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
