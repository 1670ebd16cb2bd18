"""Fixtures: made-up patients, stores with them, a store to be damaged; a tracking database."""

import shutil
import uuid

import pytest

from cluster.config import TrackingConfig
from cluster.store import open_store
from cluster.tracking import connect
from tests.cluster.patients import OPTIONS, make_volumes, run_prepare


@pytest.fixture(scope="session")
def volumes(tmp_path_factory):
    return make_volumes(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="session")
def original(volumes, tmp_path_factory):
    """The folder of a prepared store, with several training shards. Not to be written to."""
    folder = tmp_path_factory.mktemp("store")
    run_prepare(volumes, open_store(str(folder)), OPTIONS.model_copy(update={"shard_mb": 0.03}))
    return folder


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
    """A tracking database: seconds to make, so that all tests share it, each with names of its own."""
    config = TrackingConfig(uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
    connect(config)
    return config.uri


@pytest.fixture
def config(database, tmp_path):
    name = uuid.uuid4().hex
    return TrackingConfig(uri=database, artifacts=f"{tmp_path}/artifacts", experiment=f"e-{name}", model=f"m-{name}")


@pytest.fixture
def client(config):
    """MLflow's own client, which shares nothing with ours."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=config.uri, registry_uri=config.uri)
