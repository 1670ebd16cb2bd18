"""metasr sync: what a person sees of it."""

import sys
import time

import pytest

from cluster.config import TrackingConfig
from cluster.outbox.run_log import RunLog, sync
from cluster.tracking import connect
from jobs.cli import main


@pytest.fixture
def metasr(monkeypatch, capfd):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["metasr", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return call


def test_sync_sends_what_a_run_without_mlflow_has_left(metasr, tmp_path):
    database = f"sqlite:///{tmp_path}/mlflow.db"
    spool = f"--tracking.spool={tmp_path}/spool"
    away = TrackingConfig(uri="http://someone:hush@127.0.0.1:9", spool=f"{tmp_path}/spool", artifacts=f"{tmp_path}/a")
    with RunLog(away, "run-1", {"train.seed": 1}, {}) as log:
        log.metrics(5, {"loss": 0.5})
        log.status("FINISHED")
    while sync(away, lambda line: None, uri_is_given=False).num_skipped:  # its last try has not ended
        time.sleep(0.05)

    code, out, err = metasr("sync", spool)
    assert (code, out) == (1, "run run-1: 3 records are still to be sent\n")
    assert "127.0.0.1" in err.splitlines()[-1]
    assert "hush" not in out + err

    code, out, _ = metasr("sync", spool, f"--tracking.uri={database}")
    assert (code, out) == (0, "run run-1: 3 records sent\nnothing is left to send\n")
    client = connect(TrackingConfig(uri=database))
    (run,) = client.search_runs([client.get_experiment_by_name(away.experiment).experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 0.5}
    assert metasr("sync", spool)[:2] == (0, "nothing is left to send\n")


def test_sync_says_what_it_leaves_to_a_run_that_is_at_work(metasr, tmp_path):
    away = TrackingConfig(uri="http://127.0.0.1:9", spool=f"{tmp_path}/spool")
    with RunLog(away, "run-1", {}, {}) as log:
        while not log.last_error:
            time.sleep(0.01)
        code, out, _ = metasr("sync", f"--tracking.spool={tmp_path}/spool")
    assert code == 0
    assert out == "run run-1: skipped, another process is sending them\nnothing else is left to send\n"
