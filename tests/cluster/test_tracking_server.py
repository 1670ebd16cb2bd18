"""The life of a model on a team's MLflow server, with passwords, on sqlite and on PostgreSQL."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from cluster.outbox.run_log import RunLog
from cluster.registry import CHALLENGER, Registry, history, promote, rollback
from cluster.tracking import connect
from metasr import manifest
from metasr.errors import MetaSRError, RegistryError, StoreError
from tests.cluster.registered import GATE, record, scores
from tests.cluster.team_server import TeamServer, logged_in, postgresql, sqlite
from tests.cluster.tracked import artifact, start
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with nullcontext(sqlite(folder)) if request.param == "sqlite" else postgresql() as database:
        server = TeamServer(folder, database)
        yield server
        server.kill()


@pytest.fixture
def config(server, tmp_path):
    return server.config(tmp_path / "spool")


@pytest.fixture
def trainer(server):
    with logged_in("trainer"):
        yield


@pytest.fixture
def versions(trainer, config, registry, bundles, tmp_path):
    """Two evaluated versions of the trainer, 1 and 2, the second better."""
    for number, bundle in enumerate(bundles[:2], start=1):
        version = registry.register(bundle, start(config, f"run-{number}"))
        record(registry, version, scores({"2": number}, number / 100), tmp_path / f"results-{number}")
    return ["1", "2"]


def test_what_a_run_tells_arrives_and_its_bundle_is_found(trainer, config, registry, bundles, tmp_path):
    png = io.BytesIO()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(png, "PNG")
    with RunLog(config, "run-1", {"train.seed": 1}, {"code": "abc"}) as log:
        log.metrics(1, {"loss": 0.5}, {"val": png.getvalue()})
        log.register(bundles[0])
        log.status("FINISHED")
        assert log.drain(PATIENCE_S) == 0, log.last_error
    found = registry.locate(CHALLENGER, tmp_path / "fetched")
    assert manifest.digest(found.folder) == manifest.digest(bundles[0])
    run = registry.client.get_run(registry.version(CHALLENGER).run_id)
    assert (run.info.status, run.data.metrics, run.data.params["train.seed"]) == ("FINISHED", {"loss": 0.5}, "1")
    pictures = [entry.path for entry in registry.client.list_artifacts(run.info.run_id, "images")]
    (picture,) = [path for path in pictures if path.endswith(".png")]
    assert artifact(registry.client, run.info.run_id, picture, tmp_path) == png.getvalue()


def test_a_run_that_goes_on_has_no_end_until_it_ends_again(trainer, config):
    start(config).finish("KILLED", 5)
    run = start(config)
    found = connect(config).get_run(run.run_id).info
    assert (found.status, found.end_time) == ("RUNNING", None)
    run.finish("FINISHED", 7)
    found = connect(config).get_run(run.run_id).info
    assert (found.status, found.end_time) == ("FINISHED", 7)


def test_a_better_version_is_promoted_and_rolled_back(config, registry, bundles, versions, champion):
    assert promote(registry, "1", GATE, print) == ("1", None)
    with pytest.raises(RegistryError, match="has not been evaluated"):
        promote(registry, registry.register(bundles[2], start(config)), GATE, print)
    assert promote(registry, "2", GATE, print) == ("2", "1")
    assert rollback(registry, print) == ("1", "2")
    assert champion() == "1"
    assert ["rolled back" in line for line in history(registry)] == [False, False, True]


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(config, versions, champion):
    have_compared = threading.Barrier(2, timeout=PATIENCE_S)

    def promoted(version):
        told = []

        def tell(line):
            if not told:
                have_compared.wait()
            told.append(line)

        try:
            return promote(Registry(config), version, GATE, tell)
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        results = dict(zip(versions, pool.map(promoted, versions), strict=True))
    winner = champion()
    assert results.pop(winner) == (winner, None)
    (lost,) = results.values()
    assert f"made version {winner} the champion meanwhile" in lost
    assert len(history(Registry(config))) == 1


@pytest.mark.parametrize(("user", "password"), [("", ""), ("trainer", "hush-wrong-0123"), ("nobody", "hush-no-0123")])
def test_without_the_right_password_one_line_says_how_to_give_it(config, user, password):
    with logged_in(user, password), pytest.raises(StoreError) as caught:
        connect(config)
    message = str(caught.value)
    assert "\n" not in message
    assert "MLFLOW_TRACKING_USERNAME" in message
    assert "MLFLOW_TRACKING_PASSWORD" in message
    assert "hush" not in message


def refused_to_guest(config, version):
    with logged_in("guest"), pytest.raises(MetaSRError) as caught:
        promote(Registry(config), version, GATE, print)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_who_may_not_change_a_model_cannot_promote(server, config, registry, versions, champion):
    promote(registry, "1", GATE, print)
    assert "Permission denied" in refused_to_guest(config, "2")
    experiment = registry.client.get_experiment_by_name(config.experiment).experiment_id
    server.allow("guest", "experiment", experiment, "READ")
    server.allow("guest", "registered_model", config.model, "READ")
    message = refused_to_guest(config, "2")
    assert "Permission denied" in message
    assert "Ask" in message
    assert champion() == "1"
    assert len(history(registry)) == 1
