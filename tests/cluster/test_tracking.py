"""Runs in a real MLflow: what arrives, and what is said of a server that is not there."""

import io
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.config import TrackingConfig
from cluster.registry import Registry
from cluster.tracking import Run, connect, now_ms
from metasr.errors import StoreError
from tests.cluster.tracked import artifact, start
from tests.patience import is_quick

# Runs


def test_a_run_of_the_same_name_is_the_same_run(config, client):
    first = start(config, "run-1", {"train.seed": 1}, {"code": "old"})
    first.finish("FAILED")
    again = start(config, "run-1", {"train.seed": 1}, {"code": "new"})
    assert again.run_id == first.run_id
    found = client.get_run(again.run_id)
    assert (found.info.status, found.info.end_time or None) == ("RUNNING", None)
    assert found.data.tags["code"] == "new"
    again.finish("FINISHED", 5)
    found = client.get_run(again.run_id)
    assert (found.info.status, found.info.end_time) == ("FINISHED", 5)


def test_runs_of_other_names_or_experiments_are_other_runs(config):
    other = config.model_copy(update={"experiment": f"{config.experiment}-b"})
    assert len({start(config).run_id, start(config, "run-2").run_id, start(other).run_id}) == 3


def test_a_run_may_be_named_after_any_recipe(config):
    for name in ("it's mine-0a1b", 'say "x"-0a1b', "größer 50%-0a1b"):
        assert start(config, name).run_id == start(config, name).run_id


def test_an_experiment_is_one_of_model_training(config, client):
    experiment = client.get_experiment(client.get_run(start(config).run_id).info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_settings_and_tags_arrive(config, client):
    settings = {"train.seed": 0, "optim.generator_lr": 1e-05, "eval.scales": [1.5, 2.0], "loss.vgg_weights": None}
    run = start(config, "run-1", settings, {"metasr.code_version": "abc"})
    run.tag("metasr.version", "3")
    found = client.get_run(run.run_id)
    assert found.info.run_name == "run-1"
    assert client.get_experiment(found.info.experiment_id).name == config.experiment
    assert found.data.params == {
        "train.seed": "0",
        "optim.generator_lr": "1e-05",
        "eval.scales": "[1.5, 2.0]",
        "loss.vgg_weights": "null",
    }
    assert found.data.tags["metasr.code_version"] == "abc"
    assert found.data.tags["metasr.version"] == run.tags()["metasr.version"] == "3"


def test_metrics_arrive_with_their_steps(config, client):
    run = start(config)
    run.log(50, {"loss_total": 0.5, "lr": 1e-4})
    run.log(100, {"loss_total": 0.25})
    history = client.get_metric_history(run.run_id, "loss_total")
    assert [(point.step, point.value) for point in history] == [(50, 0.5), (100, 0.25)]
    assert set(client.get_run(run.run_id).data.metrics) == {"loss_total", "lr"}


def test_the_history_of_metrics_has_a_value_for_each_step_in_order(config):
    run = start(config)
    run.points([("loss/pixel", 0.5, 1, 20), ("loss/pixel", 0.7, 1, 10), ("run/step_s", 1.0, 1, 10)])
    run.points([("loss/pixel", 0.6, 2, 10)])  # a step done again after a restart
    assert run.history(("loss/", "gain_")) == {"loss/pixel": [(10, 0.6), (20, 0.5)]}


def test_pictures_and_texts_arrive_as_they_were(config, client, tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    run = start(config)
    run.picture(7, "val_comparison", png.getvalue(), now_ms())
    run.text("recipe.yaml", "train:\n  seed: 0\n")
    found = [entry.path for entry in client.list_artifacts(run.run_id, "images") if entry.path.endswith(".png")]
    assert len(found) == 1
    assert "val_comparison" in found[0]
    picture = Image.open(io.BytesIO(artifact(client, run.run_id, found[0], tmp_path)))
    np.testing.assert_array_equal(np.asarray(picture.convert("L")), pixels)
    assert artifact(client, run.run_id, "recipe.yaml", tmp_path) == b"train:\n  seed: 0\n"
    assert Path(config.artifacts).is_dir()


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_says_how_it_ended(config, client, status):
    run = start(config)
    run.finish(status)
    assert client.get_run(run.run_id).info.status == status


def test_a_run_can_be_taken_up_by_its_id(config, client):
    run = start(config)
    Run(config, run.run_id).log(1, {"loss_total": 2.0})
    assert client.get_run(run.run_id).data.metrics == {"loss_total": 2.0}


@pytest.mark.parametrize("place", ["file://{}", "file:{}", "s3://bucket/artifacts"])
def test_artifacts_may_be_kept_at_a_url(config, client, tmp_path, place):
    place = place.format(tmp_path / "elsewhere")
    run = start(config.model_copy(update={"artifacts": place}))
    uri = client.get_run(run.run_id).info.artifact_uri
    assert uri.startswith(place if "//" in place else f"file://{tmp_path}/elsewhere")


# A server that is not there


@pytest.fixture(scope="module")
def unreachable_error():
    """What is said of a server at a closed port, which port that is, and whether it is said soon."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    def look():
        with pytest.raises(StoreError) as caught:
            Registry(TrackingConfig(uri=f"http://someone:hush@127.0.0.1:{port}")).version("1")
        said.append(str(caught.value))

    said = []
    is_soon = is_quick(look, 15)
    return said[0], port, is_soon


def test_a_server_that_is_not_there_is_named_soon_and_in_one_line(unreachable_error):
    message, port, is_soon = unreachable_error
    assert is_soon
    assert f"127.0.0.1:{port}" in message
    assert message.endswith("Check tracking.uri and that the server is up")
    assert "\n" not in message
    assert "Traceback" not in message


def test_the_password_of_a_server_that_is_not_there_is_not_shown(unreachable_error):
    assert "hush" not in unreachable_error[0]


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    with pytest.raises(StoreError, match=r"mlflow\.db") as caught:
        connect(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"))
    assert "\n" not in str(caught.value)


def test_a_kind_of_database_that_is_not_installed_is_named():
    with pytest.raises(StoreError) as caught:
        connect(TrackingConfig(uri="postgresql://someone:hush@127.0.0.1:1/mlflow"))
    assert "hush" not in str(caught.value)
