"""Fixtures: a cluster of several machines, a place for a run, and what its state must be in the end."""

import shutil

import pytest

from tests.chaos.machines import Machines
from tests.chaos.runs import SETTINGS
from tests.cluster.tracked import empty_database
from tests.cluster.training import state_digest, train_locally


@pytest.fixture(scope="session")
def machines():
    """A cluster, at first of a head alone."""
    cluster = Machines()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    empty_database(path)
    return path


@pytest.fixture
def home(tmp_path, tracking_database):
    shutil.copy(tracking_database, tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, store_url):
    """Step and digest of a run with the same settings that nothing happened to, in one process without Ray."""
    folder = train_locally(tmp_path_factory.mktemp("uninterrupted"), store_url, SETTINGS)
    return SETTINGS["train.steps"], state_digest(folder)
