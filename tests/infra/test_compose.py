"""The Compose file agrees with the code, the Kubernetes files and the server of `make up`."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from infra.local import services, storage, tracking
from infra.local.stack import load_or_make
from metasr import __version__

INFRA = Path(__file__).parents[2] / "infra"
SCHEMA = os.environ.get(
    "METASR_COMPOSE_SCHEMA", ""
)  # schema/compose-spec.json of github.com/compose-spec/compose-spec


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


@pytest.fixture
def stack(tmp_path):
    return load_or_make(tmp_path / "stack", lambda line: None, any_ports=True)


@pytest.mark.skipif(not SCHEMA, reason="METASR_COMPOSE_SCHEMA names no file")
def test_the_file_is_valid(compose):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator(json.loads(Path(SCHEMA).read_text())).validate(compose)


def test_it_has_the_services_of_make_up_and_the_images_of_kubernetes(compose):
    assert set(compose["services"]) == set(services.SERVICES) - {"prometheus"}
    images = {name: one["image"] for name, one in compose["services"].items()}
    assert {images["mlflow"], images["head"], images["node"]} == {f"metasr:{__version__}"}
    kubernetes = yaml.safe_load((INFRA / "kubernetes" / "mlflow" / "kustomization.yaml").read_text())
    (postgres,) = [one for one in kubernetes["images"] if one["name"] == "postgres"]
    assert images["database"] == f"{postgres['newName']}:{postgres['newTag']}"


def test_every_port_is_open_to_this_machine_alone(compose):
    ports = [port for one in compose["services"].values() for port in one.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_mlflow_is_started_as_make_up_starts_it(compose, stack):
    mlflow = compose["services"]["mlflow"]
    assert set(tracking.environment(stack)) - set(mlflow["environment"]) <= {"OMP_NUM_THREADS"}
    assert mlflow["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    ours = {part.partition("=")[0] for part in tracking.command(stack)[1:]}
    theirs = {part.partition("=")[0] for part in mlflow["command"][1:]}
    assert ours == theirs
    assert "default_permission = NO_PERMISSIONS" in compose["configs"]["auth"]["content"]


def test_users_of_the_store_may_do_what_those_of_make_up_may(compose, stack):
    storage.prepare(stack)
    ours = json.loads((stack.folder / "storage" / "users.json").read_text())["identities"]
    theirs = json.loads(compose["configs"]["users"]["content"])["identities"]
    assert {one["name"]: one["actions"] for one in theirs} == {one["name"]: one["actions"] for one in ours}


def test_those_who_work_have_the_variables_of_make_up(compose, stack):
    for name in ("head", "node"):
        assert set(stack.client()) - set(compose["services"][name]["environment"]) == set()


def test_no_secret_is_written_into_the_file(compose):
    text = (INFRA / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.search(r"(?i)password|secret|RAY_AUTH_TOKEN", line) and not line.startswith("#"):
            assert "${" in line, line
