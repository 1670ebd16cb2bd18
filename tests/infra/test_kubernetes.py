"""The Kubernetes files are valid, hold to the rules that their README states, and fit the code."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
import yaml

from metasr import __version__
from metasr.errors import MetaSRError

FOLDER = Path(__file__).parents[2] / "infra" / "kubernetes"
APPLIED = ("network", "mlflow", "cluster", "train", "tune")
RAY_KINDS = ("RayCluster", "RayJob")
SCHEMAS = os.environ.get("METASR_KUBERAY_SCHEMAS", "")
URLS = {"DATA_URL": "s3://b/data", "STORAGE_URL": "s3://b/runs", "TRACKING_URI": "http://mlflow:5000"}


def tool(name):
    """Return the path of a program of the dev extra, beside this Python."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def rendered():
    """What `kubectl apply -k` would send, a list of objects for each folder."""
    kubectl = tool("kubectl")
    command = [kubectl, "kustomize"]
    texts = {name: subprocess.run([*command, FOLDER / name], capture_output=True, text=True) for name in APPLIED}
    assert not [text.stderr for text in texts.values() if text.returncode]
    return {name: list(yaml.safe_load_all(text.stdout)) for name, text in texts.items()}


@pytest.fixture(scope="module")
def pods(rendered):
    """Every pod's spec, by folder and where it stands in its object."""
    return {
        where: mapping
        for name, objects in rendered.items()
        for one in objects
        for where, mapping in mappings(one, f"{name}/{one['kind']}/{one['metadata']['name']}")
        if "containers" in mapping
    }


def mappings(value, where):
    """Yield every mapping in nested objects, and where it stands."""
    if isinstance(value, dict):
        yield where, value
        for key, inner in value.items():
            yield from mappings(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from mappings(inner, f"{where}[{number}]")


def objects_of(rendered, *kinds):
    return [one for objects in rendered.values() for one in objects if one["kind"] in kinds]


def entrypoints(rendered):
    """Return the commands of ours that the files run, as lists of words."""
    lines = [one["spec"]["entrypoint"] for one in objects_of(rendered, "RayJob")]
    for one in objects_of(rendered, "CronJob"):
        container = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
        lines += [container["args"][0].partition(" -- ")[2]]
    words = [shlex.split(re.sub(r"\$(\w+)", lambda name: URLS[name[1]], line)) for line in lines]
    assert {command[1] for command in words} == {"train", "tune", "evaluate"}
    return words


@pytest.mark.parametrize("name", APPLIED)
def test_objects_of_kubernetes_itself_are_valid(rendered, name, tmp_path):
    ours = [one for one in rendered[name] if one["kind"] not in RAY_KINDS]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(ours))
    done = subprocess.run([tool("kubernetes-validate"), "--strict", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", RAY_KINDS)
def test_objects_of_kuberay_are_valid(rendered, kind):
    if not SCHEMAS:
        pytest.skip("METASR_KUBERAY_SCHEMAS names no folder of KubeRay's schemas (infra/kubernetes/schemas.py)")
    validators = pytest.importorskip("jsonschema.validators")
    schema = closed(json.loads((Path(SCHEMAS) / f"{kind}.json").read_text()))
    found = objects_of(rendered, kind)
    assert found
    check = validators.validator_for(schema)(schema)
    assert not [error.message for one in found for error in check.iter_errors(one)]


def closed(schema):
    """Return the schema with unknown fields refused, as `kubectl apply --validate=strict` refuses them."""
    if isinstance(schema, dict):
        inner = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and "metadata" in schema["properties"] and "kind" in schema["properties"]:
            return inner
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            inner.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
        return inner
    return [closed(value) for value in schema] if isinstance(schema, list) else schema


def test_versions_are_those_of_the_code(rendered, pods):
    images = {container["image"] for pod in pods.values() for container in pod["containers"]}
    assert {image for image in images if "postgres" not in image} == {f"metasr:{__version__}"}
    rays = [one["spec"].get("rayClusterSpec", one["spec"]) for one in objects_of(rendered, *RAY_KINDS)]
    assert {ray["rayVersion"] for ray in rays} == {metadata.version("ray")}


def test_commands_are_understood(rendered):
    """A command whose flags are right complains of its data, which is not there."""
    for _, verb, *arguments in entrypoints(rendered):
        arguments[arguments.index(URLS["DATA_URL"])] = "/nowhere"
        with pytest.raises(MetaSRError, match="/nowhere"):
            import_module(f"jobs.{verb}").main(arguments)


def test_what_mlflow_does_not_know_yet_lies_on_a_volume(rendered, pods):
    assert all("--tracking.spool /spool" in " ".join(command) for command in entrypoints(rendered))
    heads = [pod for where, pod in pods.items() if "headGroupSpec" in where]
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in heads
        for volume in pod["volumes"]
        if volume["name"] == "spool"
    }
    assert len(claims) == len(heads) == 3
    assert claims == {one["metadata"]["name"] for one in objects_of(rendered, "PersistentVolumeClaim")}


def test_no_pod_may_more_than_it_needs(pods):
    assert len(pods) >= 12
    for where, pod in pods.items():
        assert pod["securityContext"]["runAsNonRoot"], where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert pod["automountServiceAccountToken"] == ("headGroupSpec" in where), where
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], where
            assert not security["allowPrivilegeEscalation"], where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, where
            limits, requests = (container["resources"][kind]["memory"] for kind in ("limits", "requests"))
            assert limits == requests, where  # what is used above its request is evicted first


def test_every_ray_wants_its_token_and_has_shared_memory(rendered, pods):
    for one in objects_of(rendered, *RAY_KINDS):
        ray = one["spec"].get("rayClusterSpec", one["spec"])
        assert ray["authOptions"] == {"mode": "token", "secretName": "metasr-ray-token"}
    for where, pod in pods.items():
        if "GroupSpec" in where:
            memory = {one["name"] for one in pod["volumes"] if one.get("emptyDir", {}).get("medium") == "Memory"}
            [shm] = [one["name"] for one in pod["containers"][0]["volumeMounts"] if one["mountPath"] == "/dev/shm"]
            assert shm in memory, where


def test_a_pod_is_given_the_time_that_a_stopped_job_has(pods):
    heads = [pod for where, pod in pods.items() if "headGroupSpec" in where]
    for pod in heads:
        env = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        assert int(env["RAY_JOB_STOP_WAIT_TIME_S"]) < pod["terminationGracePeriodSeconds"]


def test_secrets_are_only_named_and_the_readme_makes_each(rendered, pods):
    keys = [pair for _, mapping in mappings(list(rendered.values()), "") for pair in mapping.items()]
    named = {value["name"] for key, value in keys if key in ("secretRef", "secretKeyRef")}
    named |= {value for key, value in keys if key == "secretName"}
    readme = (FOLDER / "README.md").read_text()
    assert named == set(re.findall(r"create secret generic (\S+)", readme))
    assert not objects_of(rendered, "Secret")
    variables = [one for pod in pods.values() for container in pod["containers"] for one in container.get("env", [])]
    assert not [one for one in variables if re.search("TOKEN|PASSWORD|KEY|SECRET", one["name"]) and "value" in one]


def test_jobs_are_tried_again_and_end(rendered):
    for one in objects_of(rendered, "RayJob"):
        spec = one["spec"]
        assert spec["backoffLimit"] > 0
        assert spec["activeDeadlineSeconds"] > 0
        assert spec["shutdownAfterJobFinishes"]
        assert "runtimeEnvYAML" not in spec  # /api/jobs would show it


def test_the_network_is_closed_but_for_what_is_named(rendered, pods):
    policies = {one["metadata"]["name"]: one["spec"] for one in objects_of(rendered, "NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    nested = [mapping for _, mapping in mappings(list(rendered.values()), "")]
    labels = [one["metadata"]["labels"] for one in nested if "containers" in one.get("spec", ())]
    selected = {
        value
        for spec in policies.values()
        for value in [
            *spec["podSelector"].get("matchLabels", {}).values(),
            *(v for one in spec["podSelector"].get("matchExpressions", []) for v in one["values"]),
        ]
    }
    assert {one["app.kubernetes.io/component"] for one in labels} <= selected
    assert {one["app.kubernetes.io/part-of"] for one in labels} == {"metasr"}
