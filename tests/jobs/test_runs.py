"""What there is: `metasr runs` and `metasr models`, with and without MLflow."""

import json
import socket

import pytest

from cluster.catalogue.runs import merged
from cluster.catalogue.stored import StoredRun, stored_runs
from cluster.catalogue.tracked import TrackedRun
from cluster.checkpoints import RunCheckpoints
from cluster.store import open_store
from cluster.store.lease import Lease
from tests.cluster.stored import store_run


@pytest.fixture
def away():
    """Flags of an MLflow that nobody runs."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    return ["--tracking.uri", f"http://127.0.0.1:{port}"]


@pytest.fixture
def there(home):
    return ["--storage.url", home / "runs"]


def listed(outcome):
    """Return the runs of `--json`, by name: nothing else may be on stdout."""
    assert outcome.code == 0, outcome.err
    return {run["name"]: run for run in json.loads(outcome.out)["runs"]}


def test_a_first_day_has_no_run_and_makes_no_database(metasr, home):
    outcome = metasr("runs")
    assert outcome.code == 0
    assert outcome.out.startswith("there is no run in ~/metasr/runs; train one: metasr train ")
    assert "there is no database yet" in outcome.err
    assert not (home / "home" / "metasr").exists()


def test_runs_are_listed_from_the_storage_while_mlflow_is_away(metasr, home, store_url, there, away):
    stopped = store_run(home, store_url)
    done = {"step": "8", "registered": "meta-srgan"}
    finished = store_run(home, store_url, {"train.seed": 1}, score=-0.5, finished=done)
    outcome = metasr("runs", *there, *away)
    assert outcome.code == 0
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("warning: MLflow at http://127.0.0.1:")
    rows = {line.split()[0]: line.split()[1:] for line in outcome.out.splitlines()[1:]}
    assert rows[stopped][:4] == ["stopped", "4/8", "+0.25", "dB"]
    assert rows[finished][:4] == ["finished", "8/8", "-0.50", "dB"]
    assert rows[stopped][-1] == "ago"
    found = listed(metasr("runs", "--json", *there, *away))
    assert found[stopped]["where"] == f"file://{home}/runs"
    assert found[stopped]["recipe"] == "tiny"
    assert found[stopped]["gain_db"] == 0.25
    assert set(listed(metasr("runs", "--json", "--state", "finished", *there, *away))) == {finished}


def test_a_run_that_is_driven_is_running_and_comes_first(home, store_url, metasr, there):
    store_run(home, store_url)
    run = store_run(home, store_url, {"train.seed": 1}, recipe="zebra")
    with Lease.acquire(open_store(str(home / "runs")), run, lambda line: None):
        outcome = metasr("runs", *there)
    assert outcome.out.splitlines()[1].split()[:2] == [run, "running"]


def test_a_run_without_a_checkpoint_has_done_no_step(metasr, home, store_url, there):
    run = store_run(home, store_url, steps=())
    (found,) = listed(metasr("runs", "--json", *there)).values()
    assert (found["name"], found["step"], found["num_steps"]) == (run, 0, None)
    assert "0/?" in metasr("runs", *there).out


def test_a_run_that_cannot_be_read_is_named_and_hides_no_other(metasr, home, store_url, there):
    good, bad = store_run(home, store_url), store_run(home, store_url, {"train.seed": 1})
    (home / "runs" / bad / "checkpoints.json").write_text("{")
    (home / "runs" / "notes").mkdir()
    outcome = metasr("runs", *there)
    assert f"{bad}: the list of checkpoints" in outcome.out
    found = listed(metasr("runs", "--json", *there))
    assert {name: run["state"] for name, run in found.items()} == {good: "stopped", bad: "damaged"}


def test_runs_in_a_bucket_are_the_same(s3_url, home, store_url):
    url = f"{s3_url}/{home.name}"
    run = store_run(home, store_url, {"storage.url": url})
    store_run(home, store_url, {"storage.url": url, "train.seed": 1}, finished={"step": "8"})
    found = {one.name: one for one in stored_runs(url)}
    assert len(found) == 2
    assert (found[run].state, found[run].step, found[run].num_steps, found[run].gain_db) == ("stopped", 4, 8, 0.25)
    assert found[run].checkpoint_time is not None
    assert RunCheckpoints(open_store(url), run).best()


def told(name, state="finished", steps=8, gain=0.5, version="3"):
    return TrackedRun("id", name, state, steps, gain, version, None)


def test_mlflow_adds_versions_failures_and_runs_of_other_storages():
    stored = [
        StoredRun("a-1", "finished", 8, 8, 0.25),
        StoredRun("b-2", "stopped", 0),
        StoredRun("c-3", "running", 2),
    ]
    tracked = [told("a-1"), told("b-2", "failed", version=""), told("c-3", "failed"), told("d-4", "running")]
    runs = {run.name: run for run in merged(stored, tracked, "here")}
    assert [run.state for run in runs.values()] == ["running", "running", "finished", "failed"]
    assert (runs["a-1"].version, runs["a-1"].gain_db, runs["a-1"].where) == ("3", 0.25, "here")
    assert (runs["b-2"].num_steps, runs["b-2"].gain_db) == (8, 0.5)
    assert runs["c-3"].state == "running", "its lease says so, whatever an earlier start told MLflow"
    assert (runs["d-4"].where, runs["d-4"].step) == ("", None)


def test_models_without_mlflow_are_the_runs_that_became_versions(metasr, home, store_url, there, away):
    run = store_run(home, store_url, finished={"step": "8", "registered": "meta-srgan"})
    store_run(home, store_url, {"train.seed": 1}, finished={"step": "8", "registered": ""})
    outcome = metasr("models", *there, *away)
    assert (outcome.code, outcome.err.count("\n")) == (0, 1)
    row, shipped = outcome.out.splitlines()[1:]
    assert shipped.startswith("with metasr come, for --model: fidelity")
    assert row.split()[:2] == ["?", run]
    assert "unknown without MLflow" in row
    found = json.loads(metasr("models", "--json", *there, *away).out)
    assert [one["run"] for one in found["versions"]] == [run]
    assert len(found["problems"]) == 1
