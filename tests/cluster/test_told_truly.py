"""What `metasr train` says at its end of what MLflow has got: with MLflow away, and after it is back."""

import re
import socket
import subprocess
import sys

import pytest

from cluster.config import TrackingConfig
from cluster.registry import Registry
from metasr.errors import RegistryError
from tests.cluster.tracked import closed_port
from tests.cluster.training import ROOT, arguments_of, only_run
from tests.patience import PATIENCE_S

SHORT = {"train.steps": 2, "train.pixel_only_steps": 2, "resources.num_workers": 1}


def train(home, store_url, settings):
    command = [sys.executable, ROOT / "jobs" / "train.py", *arguments_of(home, store_url, SHORT | settings)]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.slow
def test_a_run_that_mlflow_knows_nothing_of_says_where_it_waits_until_the_same_command_sends_it(tmp_path, store_url):
    uri = f"http://127.0.0.1:{closed_port()}"
    away = train(tmp_path, store_url, {"tracking.uri": uri})
    name = re.search("run (tiny-[0-9a-f]{10})", away.stdout)[1]
    assert away.returncode == 3, away.stdout + away.stderr
    assert "Training goes on" in away.stdout
    waits = rf"\d+ records and the model wait in {tmp_path}/records on {re.escape(socket.gethostname())}"
    assert re.search(f"{waits}; `metasr sync --tracking.spool {tmp_path}/records` there sends them", away.stdout)
    assert f"metasr evaluate {name} --storage.url {tmp_path}/runs" in away.stdout
    assert "promote" not in away.stdout

    nowhere = Registry(TrackingConfig(uri=uri), str(tmp_path / "runs"))
    assert nowhere.locate(name, tmp_path / "fetched").folder.is_dir()

    back = train(tmp_path, store_url, {})
    assert back.returncode == 0, back.stdout + back.stderr
    assert f"run {name} was already finished: its best generator is version 1 of meta-srgan" in back.stdout
    assert f"next: metasr evaluate 1 --tracking.uri sqlite:///{tmp_path}/mlflow.db" in back.stdout
    assert f"then: metasr promote --model 1 --tracking.uri sqlite:///{tmp_path}/mlflow.db" in back.stdout
    assert only_run(tmp_path)[1].info.status == "FINISHED"

    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts"))
    registry = Registry(config)
    assert registry.version(name).version == registry.version(f"{tmp_path}/runs/{name}").version
    with pytest.raises(RegistryError, match="no version of other at"):
        Registry(config.model_copy(update={"model": "other"})).version(name)

    registry.client.delete_model_version("meta-srgan", "1")
    again = train(tmp_path, store_url, {})
    assert "its best generator is version 2 of meta-srgan" in again.stdout, again.stdout + again.stderr


def test_a_name_that_mlflow_refuses_ends_the_command_before_anything_is_trained(tmp_path, store_url):
    refused = train(tmp_path, store_url, {"tracking.model": "team/x"})
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: tracking.model team/x: ")
    assert len(refused.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("records/*"))
