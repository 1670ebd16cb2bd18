"""What is looked at before GPUs are spent: each thing that would stop a run is found, named, and never hangs."""

import json
import os
import socket
import threading
import uuid

import pytest

from cluster.preflight import require, services
from cluster.preflight.results import Checks, ok
from cluster.preflight.services import MLflow, inspect_data, inspect_mlflow, inspect_shards, mlflow_found, try_store
from cluster.redaction import without_secrets
from metasr.errors import ConfigError, DataError, StoreError
from tests.cluster.fault_proxy import Answer, FaultProxy, always
from tests.cluster.training import changed
from tests.patience import is_quick

CANARY = "hush-canary-password"


@pytest.fixture
def black_hole():
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# Checks


def test_a_look_that_hangs_is_given_up_and_the_next_check_is_made():
    checks, never = Checks(), threading.Event()
    checks.look("first", never.wait, 0.05)
    checks.judge("first", ok, "first")
    checks.judge("built on it", ok, "first")
    checks.look("second", lambda: "well", 5)
    checks.judge("second", ok, "second")
    never.set()
    assert [(result.name, result.state) for result in checks.results] == [
        ("first", "problem"),
        ("built on it", "skipped"),
        ("second", "ok"),
    ]
    assert "0.05 s" in checks.results[0].found
    assert "first" in checks.results[1].found


def test_results_hold_no_secrets(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARY)
    monkeypatch.setenv("RAY_AUTH_TOKEN", f"{CANARY}-2")
    checks = Checks()

    def fail():
        raise ConfigError(f"http://user:{CANARY}@host", f"said {CANARY}-2", f"not {CANARY}")

    checks.look("all", fail, 5)
    assert CANARY not in str(checks.results)
    assert "http://host" in checks.results[0].found
    assert without_secrets("https://a@b:c@host/path") == "https://host/path"


# Data


def test_a_data_set_that_is_well_is_summed_up(job):
    data = inspect_data(job)
    assert "train" in services.data_found(data).found
    assert "SHA-256" in inspect_shards(data)


def test_a_patient_in_both_splits_is_found(job, damaged):
    index = json.loads((damaged / "index.json").read_text())
    index["subjects"]["val"].append(index["subjects"]["train"][0])
    for name in ("sha256", "split_sha256"):
        del index[name]
    (damaged / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="in training and in validation"):
        inspect_data(changed(job, "data", url=str(damaged)))


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_a_truncated_shard_ends_the_job_at_its_start(job, damaged, place):
    config = changed(job, "data", url=str(damaged))
    name = inspect_data(config).index.shards[place].name
    with (damaged / name).open("rb+") as file:
        file.truncate(100)
    with pytest.raises(ConfigError, match=f"check shards: .*{name}.*100 bytes"):
        require(config, pytest.fail)


# Storage


def test_a_store_that_is_well_keeps_nothing_of_the_check(s3_url, tmp_path):
    for url in (f"{s3_url}/{uuid.uuid4().hex}", str(tmp_path)):
        assert services.store_found(try_store(url)).state == "ok"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".metasr.lock"] == []


def test_wrong_keys_are_found_and_not_shown(s3_url, monkeypatch, job):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    with pytest.raises(ConfigError, match=r"check storage: .*the secret does not belong") as caught:
        require(changed(job, "storage", url=s3_url), pytest.fail)
    assert CANARY not in str(caught.value)


def test_a_missing_bucket_is_named(s3_url):
    with pytest.raises(StoreError, match="bucket does not exist"):
        try_store("s3://there-is-no-such-bucket/runs")


class Unconditional(FaultProxy):
    """A server that says of every write that it was made, as those do that know no conditions."""

    def __init__(self, upstream, condition):
        super().__init__(upstream, lambda *_: None)
        self._condition = condition

    def ask(self, method, path, headers, body):
        status, answered, content = super().ask(method, path, headers, body)
        if status == 412 and self._condition in {name.lower() for name in headers}:
            return 200, {"ETag": '"0123"'}, b""
        return status, answered, content


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match"])
def test_a_store_without_conditional_writes_is_a_problem(s3_url, monkeypatch, condition):
    with Unconditional(os.environ["AWS_ENDPOINT_URL"], condition.lower()) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StoreError, match=f"ignores {condition}"):
            try_store(f"{s3_url}/{uuid.uuid4().hex}")


def test_a_store_that_never_answers_is_given_up(s3_url, monkeypatch, job, black_hole):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{black_hole}")

    def find():
        with pytest.raises(ConfigError, match="check storage"):
            require(changed(job, "storage", url=s3_url), pytest.fail)

    assert is_quick(find, 25)


# The start of a job


def test_a_job_that_is_well_hears_nothing_and_starts_at_once(job):
    told = []
    assert is_quick(lambda: require(job, told.append), 5)
    assert told == []


# MLflow


def test_the_database_is_judged_by_the_library(job):
    assert mlflow_found(inspect_mlflow(job.tracking)).state == "ok"


def test_an_mlflow_that_never_answers_is_named_without_its_password(job, black_hole, monkeypatch):
    monkeypatch.setattr(services, "ANSWER_S", 0.3)
    tracking = job.tracking.model_copy(update={"uri": f"http://user:{CANARY}@127.0.0.1:{black_hole}"})
    with pytest.raises(StoreError, match=f"MLflow at http://127.0.0.1:{black_hole}") as caught:
        inspect_mlflow(tracking)
    assert CANARY not in str(caught.value)


def test_an_mlflow_that_refuses_is_named(job):
    with FaultProxy("http://127.0.0.1:9", always(Answer(401))) as proxy:
        tracking = job.tracking.model_copy(update={"uri": proxy.url})
        with pytest.raises(StoreError, match="MLflow at"):
            inspect_mlflow(tracking)


@pytest.mark.parametrize(
    ("mlflow", "state", "said"),
    [
        (MLflow("127.0.0.1", "3.17.2"), "ok", "3.17.2"),
        (MLflow("mlflow.example", "3.17.2", requires_login=True), "ok", "3.17.2"),
        (MLflow("192.0.2.1", "3.17.2"), "warning", "no authentication"),
        (MLflow("127.0.0.1", "3.9.0"), "warning", "known vulnerabilities"),
        (MLflow("127.0.0.1", ""), "warning", "unknown"),
    ],
)
def test_mlflow_is_judged_by_its_version_and_by_whom_it_answers(mlflow, state, said):
    finding = mlflow_found(mlflow)
    assert finding.state == state
    assert said in finding.found
