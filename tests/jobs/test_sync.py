"""metasr sync: what a person sees of it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from cluster.config import TrackingConfig
from cluster.outbox.run_log import RunLog
from cluster.outbox.sync import sync
from cluster.store import open_store
from cluster.store.lease import Lease
from cluster.tracking import connect
from jobs.cli import main
from tests.cluster.training import ROOT
from tests.jobs.command import Outcome


@pytest.fixture
def metasr(monkeypatch, capfd):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["metasr", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return Outcome(left.value.code, *capfd.readouterr())

    return call


SENT = "run run-1: 2 records sent (1 start, 1 tag)"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Its tables take seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def test_sync_sends_what_a_run_without_mlflow_has_left(metasr, tmp_path, database):
    spool = f"--tracking.spool={tmp_path}/spool"
    places = {"spool": f"{tmp_path}/spool", "artifacts": f"{tmp_path}/artifacts", "experiment": "sent-later"}
    away = TrackingConfig(uri="http://someone:hush@127.0.0.1:9", **places)
    with RunLog(away, "run-1", {"train.seed": 1}, {}) as log:
        log.metrics(5, {"loss": 0.5})
        log.status("FINISHED")
    while sync(away, lambda line: None, uri_is_given=False).num_skipped:  # its last try has not ended
        time.sleep(0.05)

    code, out, err = metasr("sync", spool)
    looking = f"looking for records in {tmp_path}/spool\n"
    assert (code, out) == (
        1,
        f"{looking}run run-1: 3 records are still to be sent, which wait in {tmp_path}/spool/run-1\n",
    )
    code, out, _ = metasr("sync", spool, "--json")
    assert (code, list(json.loads(out)["runs"])) == (1, ["run-1"])
    assert json.loads(out)["failure"]
    assert "127.0.0.1" in err.splitlines()[-1]
    assert "hush" not in out + err

    code, out, _ = metasr("sync", spool, f"--tracking.uri={database}")
    sent = "run run-1: 3 records sent (1 metrics, 1 start, 1 status)\n"
    assert (code, out) == (0, f"{looking}{sent}nothing is left to send\n")
    client = connect(TrackingConfig(uri=database))
    (run,) = client.search_runs([client.get_experiment_by_name(away.experiment).experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 0.5}
    assert metasr("sync", spool)[:2] == (0, f"{looking}nothing is left to send\n")


def waiting(tmp_path, database):
    """Settings, and the folder of a run whose tag MLflow has not got."""
    away = TrackingConfig(uri="http://127.0.0.1:9", spool=f"{tmp_path}/spool", artifacts=f"{tmp_path}/artifacts")
    with RunLog(away, "run-1", {}, {}) as log:
        log.tag("note", "a")
    while sync(away, lambda line: None, uri_is_given=False).num_skipped:  # its last try has not ended
        time.sleep(0.05)
    return (
        f"--tracking.spool={tmp_path}/spool",
        f"--tracking.uri={database}",
        tmp_path / "spool/run-1",
    )


def test_sync_removes_what_is_sent_and_closes_what_it_opens(metasr, tmp_path, database):
    *flags, folder = waiting(tmp_path, database)
    code, out, _ = metasr("sync", *flags)
    assert (code, out.splitlines()[1:]) == (0, [SENT, "nothing is left to send"])
    assert list(folder.parent.iterdir()) == []
    assert not [path for path in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(path)]


def test_sync_keeps_records_that_mlflow_refuses_and_says_where(metasr, tmp_path, database):
    *flags, folder = waiting(tmp_path, database)
    (folder / "records.jsonl").write_text('{"format": 1, "kind": "dance", "time_ms": 1, "payload": {}}\n')
    kept = f"1 that MLflow refused are kept in {folder}/refused.jsonl: a record of kind dance is not known"
    assert metasr("sync", *flags).out.splitlines()[1] == f"run run-1: 1 records sent (1 dance), {kept}"
    assert metasr("sync", *flags).out.splitlines()[1:] == [f"run run-1: {kept}", "nothing is left to send"]
    assert '"dance"' in (folder / "refused.jsonl").read_text()


@pytest.mark.parametrize(("file", "where"), [("records.jsonl", "a record in {}"), ("head.json", "{}/head.json")])
def test_sync_leaves_records_of_a_later_version_to_it(metasr, tmp_path, database, file, where):
    *flags, folder = waiting(tmp_path, database)
    written = (folder / file).read_text()
    (folder / file).write_text(written.replace('"format": 1', '"format": 2'))
    code, out, err = metasr("sync", *flags)
    assert (code, out.splitlines()[1:]) == (
        1,
        [f"run run-1: 2 records are still to be sent, which wait in {folder}"],
    )
    assert f"{where.format(folder)}: it has format 2, and this version of metasr reads format 1. Use the " in err
    (folder / file).write_text(written.replace('"format": 1, ', ""))  # as the first version wrote it
    code, out, _ = metasr("sync", *flags)
    assert (code, out.splitlines()[1:]) == (0, [SENT, "nothing is left to send"])


def test_sync_says_what_it_leaves_to_a_run_that_is_at_work(metasr, tmp_path):
    away = TrackingConfig(uri="http://127.0.0.1:9", spool=f"{tmp_path}/spool")
    with RunLog(away, "run-1", {}, {}) as log:
        while not log.last_error:
            time.sleep(0.01)
        code, out, _ = metasr("sync", f"--tracking.spool={tmp_path}/spool")
    assert code == 0
    assert out.splitlines()[1:] == [
        "run run-1: skipped, another process is sending them",
        "nothing else is left to send",
    ]


@pytest.mark.parametrize("is_alive", [False, True])
def test_sync_ends_a_run_whose_driver_has_gone_and_no_other(metasr, tmp_path, database, is_alive):
    places = {"spool": f"{tmp_path}/spool", "artifacts": f"{tmp_path}/artifacts", "experiment": f"left-{is_alive}"}
    config = TrackingConfig(uri=database, **places)
    driver = subprocess.run(
        [sys.executable, "-c", KILLED_DRIVER, config.model_dump_json(), f"{tmp_path}/runs"], cwd=ROOT
    )
    assert driver.returncode == -signal.SIGKILL
    with Lease.acquire(open_store(f"{tmp_path}/runs"), "run-1", print) if is_alive else nullcontext():
        _, out, _ = metasr("sync", f"--tracking.spool={tmp_path}/spool")
    client = connect(config)
    (run,) = client.search_runs([client.get_experiment_by_name(config.experiment).experiment_id])
    assert run.info.status == ("RUNNING" if is_alive else "KILLED")
    assert ("its driver has ended without a word: it is KILLED in MLflow" in out) == (not is_alive)


KILLED_DRIVER = """
import os, signal, sys
from cluster.config import TrackingConfig
from cluster.outbox.run_log import RunLog
from cluster.store import open_store
from cluster.store.lease import Lease

config = TrackingConfig.model_validate_json(sys.argv[1])
Lease.acquire(open_store(sys.argv[2]), "run-1", print)
log = RunLog(config, "run-1", {"storage.url": sys.argv[2]}, {})
assert log.drain(300) == 0
os.kill(os.getpid(), signal.SIGKILL)
"""
