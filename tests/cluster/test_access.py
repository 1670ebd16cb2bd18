"""Whether MLflow takes what a training will tell it: asked before the training, with real requests."""

import socket
import time

import pytest

from cluster.config import TrackingConfig
from cluster.outbox.access import require_access
from cluster.tracking import connect
from metasr.errors import ConfigError, StoreError
from tests.cluster.team_server import TeamServer, logged_in, sqlite
from tests.cluster.tracked import closed_port


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    server = TeamServer(folder, sqlite(folder))
    yield server
    server.kill()


@pytest.fixture
def config(server, tmp_path):
    return server.config(tmp_path / "spool")


def test_a_user_with_the_rights_to_it_is_let_through_in_silence(config):
    told = []
    with logged_in("trainer"):
        require_access(config, told.append)
        require_access(config, told.append)
    assert told == []


def test_a_wrong_password_ends_it(config):
    with logged_in("trainer", "wrong-0123456"), pytest.raises(StoreError, match="Set MLFLOW_TRACKING_USERNAME and"):
        require_access(config, print)


@pytest.mark.parametrize(("own", "kind"), [("experiment", "registered_model"), ("model", "experiment")])
def test_a_user_who_may_not_write_to_what_is_there_is_told_so(config, server, own, kind):
    with logged_in("trainer"):
        require_access(config, print)
        there = getattr(config, "model" if kind == "registered_model" else "experiment")
        found = connect(config).get_experiment_by_name(config.experiment).experiment_id
    server.allow("guest", kind, there if kind == "registered_model" else found, "READ")
    with logged_in("guest"), pytest.raises(StoreError, match="permission"):
        require_access(config.model_copy(update={own: f"{there}-of-the-guest"}), print)


def test_a_name_that_mlflow_refuses_ends_it(config):
    with logged_in("trainer"), pytest.raises(ConfigError, match=r"tracking\.model team/x"):
        require_access(config.model_copy(update={"model": "team/x"}), print)


def test_an_mlflow_that_is_away_is_a_warning(tmp_path):
    told = []
    away = TrackingConfig(uri=f"http://me:hush@127.0.0.1:{closed_port()}", spool=str(tmp_path))
    require_access(away, told.append)
    assert len(told) == 1
    assert f"Training goes on: what MLflow is to get waits in {tmp_path}" in told[0]
    assert "hush" not in told[0]


def test_an_mlflow_that_never_answers_is_not_waited_for(tmp_path):
    told = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri, began = f"http://127.0.0.1:{silent.getsockname()[1]}", time.monotonic()
        require_access(TrackingConfig(uri=uri, spool=str(tmp_path)), told.append, deadline_s=0.5)
        assert time.monotonic() - began < 10
    assert "no answer within 0.5 s" in told[0]
