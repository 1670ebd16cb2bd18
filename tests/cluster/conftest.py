"""Fixtures: made-up patients, stores with them, a store to be damaged; a tracking database, with versions; a Ray."""

import os
import secrets
import shutil
import socket
import tempfile
import uuid

import pytest

from cluster.config import JobConfig, TrackingConfig
from cluster.registry import CHAMPION, Registry
from cluster.store import open_store
from tests.cluster.patients import OPTIONS, make_volumes, run_prepare
from tests.cluster.ray_nodes import ray_node
from tests.cluster.registered import make_bundle, record, scores
from tests.cluster.tracked import empty_database, start


@pytest.fixture(scope="session")
def volumes(tmp_path_factory):
    return make_volumes(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="session")
def original(volumes, tmp_path_factory):
    """The folder of a prepared store, with several training shards. Not to be written to."""
    folder = tmp_path_factory.mktemp("store")
    run_prepare(volumes, open_store(str(folder)), OPTIONS.model_copy(update={"shard_mb": 0.03}))
    return folder


@pytest.fixture(scope="session")
def cluster():
    """A Ray that tests share and none may harm: the process that holds it, and the environment of those who join."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie in it, and their paths must be
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    options = ["--head", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}", "--include-dashboard=false"]
    options.append("--dashboard-agent-listen-port=0")  # the default is that of any other Ray on this machine
    try:
        with ray_node(environment, *options, "--object-store-memory=100000000") as head:
            yield head, {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def damaged(original, tmp_path):
    """A copy of the prepared store, to be damaged."""
    return shutil.copytree(original, tmp_path / "damaged")


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    return open_store(f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A tracking database that all tests share, each with names of its own."""
    return empty_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


@pytest.fixture
def config(database, tmp_path):
    name = uuid.uuid4().hex
    return TrackingConfig(uri=database, artifacts=f"{tmp_path}/artifacts", experiment=f"e-{name}", model=f"m-{name}")


@pytest.fixture
def job(original, tmp_path, database):
    """A job whose services are all well."""
    return JobConfig.model_validate(
        {
            "data": {"url": str(original)},
            "loss": {"perceptual": 0},
            "resources": {"num_workers": 1},
            "storage": {"url": str(tmp_path / "runs"), "spool": str(tmp_path), "cache": str(tmp_path)},
            "tracking": {"uri": database},
        }
    )


@pytest.fixture
def client(config):
    """MLflow's own client, which shares nothing with ours."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=config.uri, registry_uri=config.uri)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return [make_bundle(tmp_path_factory.mktemp("bundles") / str(step), step) for step in (1, 2, 3)]


@pytest.fixture
def registry(config):
    return Registry(config)


@pytest.fixture
def versions(config, registry, bundles, tmp_path):
    """Three evaluated versions, 1, 2 and 3, each better than the one before."""
    for number, bundle in enumerate(bundles, start=1):
        version = registry.register(bundle, start(config, f"run-{number}"))
        record(registry, version, scores({"2": number, "3": number}, number / 100), tmp_path / f"results-{number}")
    return ["1", "2", "3"]


@pytest.fixture
def champion(client, config):
    """Where the alias points, as MLflow says."""

    def look():
        version = client.get_registered_model(config.model).aliases.get(CHAMPION)
        return None if version is None else str(version)

    return look
