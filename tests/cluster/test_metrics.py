"""What a run and a sweep export to Prometheus. Ray's own part of it: test_submit.py."""

from types import SimpleNamespace

import pytest

from cluster.watch.exported import METRICS, Exporter
from cluster.watch.metrics import RunMetrics
from cluster.watch.report import RunReport
from metasr.errors import DivergedError, Interrupted
from metasr.events import Event

NOTHING_WAITS = SimpleNamespace(remaining=0, refusals=[])


class Exported(dict):
    """The newest value of each metric, by name and its own labels."""

    num_renewed = 0

    def put(self, name, value, **labels):
        assert name in METRICS
        assert set(labels) == set(METRICS[name].labels) - {"run", "sweep"}
        self[(name.removeprefix("metasr_"), *labels.values())] = value

    def renew(self):
        self.num_renewed += 1


@pytest.fixture
def run():
    """A run of 100 steps: what it has exported, and a function that has it see an event at some time of day."""
    exported, now, report = Exported(), [1000.0], RunReport()
    metrics = RunMetrics(exported, report, NOTHING_WAITS, 100, lambda: now[0])

    def see(kind, step=0, at=1000.0, rank=0, text="", **values):
        now[0] = at
        event = Event(kind, step, values, rank=rank, text=text)
        report.see(event)
        metrics.see(event)

    return SimpleNamespace(exported=exported, see=see, metrics=metrics)


def test_an_interval_of_steps_is_exported_with_its_losses(run):
    run.see("group", num_workers=2)
    run.see("steps", 10, at=1010.0, loss_pixel=0.5, steps_per_s=2.0, samples_per_s=8.0, waiting_share=0.25)
    assert run.exported["workers",] == 2
    assert run.exported["step",] == 10
    assert run.exported["loss", "pixel"] == 0.5
    assert (run.exported["steps_per_second",], run.exported["samples_per_second",]) == (2.0, 8.0)
    assert run.exported["data_wait_share",] == 0.25
    assert run.exported["progress_timestamp_seconds",] == 1010.0


def test_the_age_of_the_newest_checkpoint_counts_from_the_upload_and_before_the_first_from_the_start(run):
    run.see("resumed", 40, at=1000.0)
    assert run.exported["checkpoint_timestamp_seconds",] == 1000.0
    run.see("kept", 50, at=1020.0)
    assert run.exported["checkpoints_waiting",] == 1
    assert run.exported["checkpoint_timestamp_seconds",] == 1000.0  # on a worker's disk, which may be lost
    run.see("uploaded", 50, at=1025.0, pending=0)
    assert (run.exported["checkpoint_step",], run.exported["checkpoint_timestamp_seconds",]) == (50, 1025.0)
    assert run.exported["checkpoints_waiting",] == 0
    run.see("resumed", 50, at=1100.0)  # a restart of the workers saves nothing
    assert run.exported["checkpoint_timestamp_seconds",] == 1025.0


def test_an_event_about_trouble_is_no_progress(run):
    run.see("validated", 10, at=1000.0, val_psnr_gain=1.5)
    run.see("retries", 10, at=1100.0, timeout=3)
    run.see("warning", 10, at=1200.0, text="a shard is slow")
    assert run.exported["psnr_gain_db",] == 1.5
    assert run.exported["progress_timestamp_seconds",] == 1000.0


def test_retries_of_all_workers_and_groups_add_up_by_reason(run):
    run.see("group", num_workers=2)
    run.see("retries", timeout=3)
    run.see("retries", rank=1, timeout=1, error_503=2)
    run.see("group", num_workers=2)  # its workers count from zero
    run.see("retries", timeout=1)
    assert (run.exported["retries", "timeout"], run.exported["retries", "error_503"]) == (5, 2)
    assert run.exported["restarts",] == 1


def test_damage_is_counted_as_in_the_report(run):
    run.see("resumed", 20, text="step-40 (a file is cut)")
    run.see("skipped", 21)
    run.see("skipped", 21)  # once more, after a restart
    run.see("substituted", 25, text="a.tar, b.tar")
    counts = [run.exported[name,] for name in ("bad_checkpoints", "skipped_updates", "substituted_shards")]
    assert counts == [1, 1, 2]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(DivergedError("NaN"), "diverged"), (ValueError("anything"), "failed"), (Interrupted(15), "interrupted")],
)
def test_a_driver_that_leaves_in_order_says_how(run, error, outcome):
    def drive():
        with run.metrics.exported():
            assert run.exported["driver_started_timestamp_seconds",] == 1000.0
            assert not [name for name in run.exported if "driver_ended_timestamp_seconds" in name]
            raise error

    with pytest.raises(type(error)):
        drive()
    assert run.exported["driver_ended_timestamp_seconds", outcome] == 1000.0


def test_what_waits_for_mlflow_is_exported_without_an_event_and_the_rest_again():
    exported, backlog = Exported(), SimpleNamespace(remaining=7, refusals=["a name", "a name"])
    with RunMetrics(exported, RunReport(), backlog, 100).exported():
        pass
    assert exported.num_renewed
    assert (exported["records_waiting",], exported["records_refused",]) == (7, 2)


def test_an_outbox_that_cannot_be_read_does_not_end_a_training(caplog):
    class Broken:
        refusals = ()

        @property
        def remaining(self):
            raise OSError("the disk is gone")

    exported = Exported()
    with RunMetrics(exported, RunReport(), Broken(), 100).exported():
        pass
    assert exported["driver_ended_timestamp_seconds", "ended"]
    assert "the disk is gone" in caplog.text


def test_without_ray_nothing_is_exported_and_nothing_fails():
    exporter = Exporter(run="a", sweep="")
    exporter.put("metasr_step", 1)
    exporter.put("metasr_retries", 1, reason="timeout")
    exporter.renew()
