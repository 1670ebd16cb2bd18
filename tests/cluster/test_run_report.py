"""The report of a run: what it cost, however it ended and whatever happened on the way."""

import json

import pytest

from cluster.watch.report import RunReport
from metasr.events import Event


class Story:
    """A run as it is told to the report, with a clock that the test moves."""

    def __init__(self):
        self.now = 5000.0
        self.report = RunReport(lambda: self.now)

    def mark(self, name, after=0.0):
        self.now += after
        self.report.mark(name)

    def see(self, kind, step=0, text="", after=0.0, rank=0, **values):
        self.now += after
        self.report.see(Event(kind, step, values, text, rank=rank))

    def start(self, step=0, text="", after=1.0, **values):
        """A group of workers starts, from the checkpoint of a step."""
        self.see("group", after=after, **({"num_workers": 2} | values))
        self.see("resumed", step, text)

    def steps(self, until, seconds, steps, **values):
        """So many steps end, and took so many seconds."""
        self.see("steps", until, after=seconds, steps_per_s=steps / seconds, **values)

    def finish(self, outcome="finished", **options):
        report = self.report.finish(outcome, **options)
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        return report

    def words(self, outcome="finished", **options):
        self.finish(outcome, **options)
        return self.report.lines()


@pytest.fixture
def story():
    return Story()


def has(lines, text):
    return any(text in line for line in lines)


def test_a_smooth_run(story):
    story.start(after=10)
    story.steps(100, 20, 100, waiting_share=0.1, samples_per_s=40.0)
    story.steps(200, 20, 100, waiting_share=0.0, samples_per_s=40.0)
    story.see("validated", 200, after=5, seconds=5.0, val_psnr_gain=1.0)
    story.see("kept", 200, after=1, seconds=1.0, bytes=2_000_000)
    story.see("uploaded", 200, after=4, seconds=3.5, bytes=2_000_000, pending=0)
    report = story.finish()
    assert report["format"] == 1
    assert report["wall_s"] == 60
    assert report["useful_s"] == pytest.approx(38)
    assert report["useful_share"] == pytest.approx(38 / 60)
    assert report["steps"] == {"from": 0, "to": 200, "again": 0, "unsaved": 0}
    assert report["restarts"] == report["bad_checkpoints"] == report["substituted_shards"] == []
    assert report["validated"] == {"count": 1, "seconds": 5.0}
    assert report["kept"] == {"count": 1, "seconds": 1.0}
    assert report["uploaded"] == {"count": 1, "seconds": 3.5, "bytes": 2_000_000}
    assert report["not_uploaded"] == 0
    assert story.report.lines() == [
        "finished after 0:01:00, 63% of it for saved steps",
        "steps 0 to 200",
        "first step after 30.0 s: start of the workers and their imports 10.0, the step itself 20.0",
        "a step took 0.2 s (median), 0.2 s (p99), 40 samples/s",
        "waited 2.0 s for data; stalls: 1, total 2.0 s, longest 2.0 s",
        "checkpoints: 1 (1.0 s) kept, 1 (2.0 MB, 3.5 s) uploaded",
        "validations: 1 in 5.0 s",
    ]


# The way to the first step


def test_the_time_to_the_first_step_falls_into_its_parts(story):
    story.mark("connected", after=8)
    story.mark("fit", after=1)
    story.see("group", after=13, num_workers=2, imports_s=2.5, data_s=0.5, networks_s=1.0)
    story.see("resumed", 0)
    story.see("steps", 50, after=10, steps_per_s=7.0, since_first_step_s=6.5)
    story.mark("fitted", after=5)
    report = story.finish()
    first = report["first_step"]
    assert first["seconds"] == 25.5
    assert first["parts_s"] == {
        "connected": 8, "fit": 1, "group": 9, "imports": 2.5, "data": 0.5, "networks": 1.0, "first_step": 3.5,
    }  # fmt: skip
    assert sum(first["parts_s"].values()) == first["seconds"]
    assert report["marks_s"] == {"connected": 8, "fit": 9, "fitted": 37}


def test_the_first_step_may_be_that_of_the_second_group(story):
    story.mark("fit", after=2)
    story.start(after=10)
    story.start(after=20)
    story.steps(10, 5, 10)
    report = story.finish()
    assert report["first_step"]["seconds"] == 37
    assert sum(report["first_step"]["parts_s"].values()) == 37


# Restarts


def test_a_restart_takes_back_what_no_checkpoint_had(story):
    story.start(after=0)
    story.steps(100, 10, 100)
    story.see("kept", 100)
    story.steps(150, 5, 50)
    story.start(100, after=20, num_workers=1)
    story.see("steps", 150, after=9, steps_per_s=10.0, since_first_step_s=4.0)
    story.steps(200, 5, 50)
    story.see("kept", 200)
    report = story.finish()
    assert report["first_step"] == {"seconds": 10, "parts_s": {"group": 0, "first_step": 10}}
    assert report["restarts"] == [{"num_workers": 1, "lost_at_step": 150, "resumed_step": 100, "rto_s": 25.0}]
    assert report["steps"] == {"from": 0, "to": 200, "again": 50, "unsaved": 0}
    assert report["useful_s"] == pytest.approx(20)
    assert has(story.report.lines(), "steps 0 to 200, 50 repeated")
    assert has(story.report.lines(), "restart 1: lost at step 150, resumed at step 100, a new step after 25.0 s")


def test_a_checkpoint_inside_an_interval_takes_back_part_of_it(story):
    story.start()
    story.steps(100, 10, 100)
    story.start(75)
    story.steps(175, 10, 100)
    story.see("kept", 150)
    report = story.finish()
    assert report["useful_s"] == pytest.approx(7.5 + 7.5)
    assert report["steps"] == {"from": 0, "to": 175, "again": 25, "unsaved": 25}


def test_a_group_that_dies_before_its_first_step_prolongs_the_outage(story):
    story.start()
    story.steps(10, 1, 10)
    story.start(10, after=20)
    story.start(10, after=30)
    story.steps(20, 1, 10)
    assert [restart["rto_s"] for restart in story.finish()["restarts"]] == [51, 31]


def test_a_group_that_comes_to_nothing_is_told(story):
    story.start()
    story.steps(10, 1, 10)
    story.see("group", after=20, num_workers=2)
    report = story.finish("failed: no more attempts")
    assert report["restarts"][0]["resumed_step"] is None
    assert report["restarts"][0]["rto_s"] is None
    assert has(story.report.lines(), "restart 1: lost at step 10, not resumed, no step since")


def test_retries_of_all_workers_and_groups_add_up(story):
    story.start()
    story.see("retries", 10, timeout=1)
    story.see("retries", 15, timeout=4, rank=1)
    story.see("retries", 20, timeout=3, reset=1)
    story.start(10)
    story.see("retries", 20, timeout=2, reset=0)
    assert story.finish()["retries"] == {"timeout": 9, "reset": 1}
    assert has(story.report.lines(), "requests retried: reset 1, timeout 9")


def test_an_update_that_is_left_out_again_counts_once(story):
    story.start()
    story.see("skipped", 30)
    story.see("skipped", 31)
    story.start(20)
    story.see("skipped", 30)
    assert story.finish()["skipped_updates"] == 2
    assert has(story.report.lines(), "updates skipped, NaN or Inf: 2")


# How runs end


def test_a_run_that_fails_counts_only_what_a_checkpoint_has(story):
    story.start()
    story.steps(100, 10, 100)
    story.see("kept", 100)
    story.steps(160, 6, 60)
    report = story.finish("failed: out of memory")
    assert report["outcome"] == "failed: out of memory"
    assert report["useful_s"] == pytest.approx(10)
    assert report["steps"]["unsaved"] == 60
    assert has(story.report.lines(), "steps 0 to 160, the last 60 in no checkpoint")
    assert has(story.report.lines(), "0 (0.0 MB, 0.0 s) uploaded, 1 not uploaded")


def test_a_run_that_ends_before_anything_has_a_report_too(story):
    assert story.finish("interrupted")["useful_share"] == 0
    story.mark("connected", after=3)
    report = story.finish("interrupted")
    assert report["first_step"] == {"seconds": None, "parts_s": {}}
    assert report["throughput"] == {"step_s_p50": None, "step_s_p99": None, "samples_per_s_p50": None}
    assert story.report.lines() == ["interrupted after 0:00:03, 0% of it for saved steps", "steps 0 to 0"]


def test_a_run_resumed_at_its_last_step_did_nothing(story):
    story.start(400)
    report = story.finish()
    assert report["steps"] == {"from": 400, "to": 400, "again": 0, "unsaved": 0}
    assert report["first_step"]["seconds"] is None


def test_a_run_that_goes_on_counts_its_own_steps(story):
    story.start(300, "step 350 (model.safetensors differs)")
    story.steps(400, 10, 100)
    story.see("kept", 400)
    report = story.finish()
    assert report["steps"]["from"] == 300
    assert report["useful_s"] == pytest.approx(10)
    assert report["bad_checkpoints"] == ["step 350 (model.safetensors differs)"]
    assert has(story.report.lines(), "bad checkpoints skipped: step 350 (model.safetensors differs)")


def test_other_arithmetic_on_the_way_is_told(story):
    story.start(300)
    assert story.finish()["changed"] == ""
    story.see("changed", 300, "arithmetic a; after step 300: b")
    assert story.finish()["changed"] == "arithmetic a; after step 300: b"
    assert has(story.report.lines(), "code or arithmetic changed: arithmetic a; after step 300: b")


def test_records_that_were_not_sent_are_told(story):
    assert has(story.words(records_not_sent=12), "records not sent to MLflow: 12")
    assert not has(story.words(), "MLflow")


# Data


def test_stalls_are_told_from_the_usual_wait(story):
    story.start()
    story.steps(100, 100, 100, waiting_share=0.03)
    story.steps(200, 40, 100, waiting_share=0.75)
    story.steps(300, 20, 100, waiting_share=0.5)
    story.steps(310, 1, 10, waiting_share=0.9)
    waiting = story.finish()["waiting"]
    assert waiting == pytest.approx({"seconds": 43.9, "stalls": 2, "longest_stall_s": 30.0, "stalls_s": 40.0})
    assert has(story.report.lines(), "waited 43.9 s for data; stalls: 2, total 40.0 s, longest 30.0 s")


def test_replaced_shards_are_listed_once(story):
    story.start()
    story.see("substituted", 10, "b.tar, a.tar")
    story.see("substituted", 90, "a.tar")
    assert story.finish()["substituted_shards"] == ["a.tar", "b.tar"]
    assert has(story.report.lines(), "damaged shards replaced: a.tar, b.tar")


def test_the_slowest_steps_show(story):
    story.start()
    for number in range(1, 101):
        story.steps(10 * number, 40 if number > 98 else 1, 10, samples_per_s=80.0)
    throughput = story.finish()["throughput"]
    assert throughput == pytest.approx({"step_s_p50": 0.1, "step_s_p99": 4.0, "samples_per_s_p50": 80.0})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e308])
def test_odd_numbers_break_nothing(story, number):
    values = ["num_workers", "imports_s", "steps_per_s", "samples_per_s", "waiting_share", "seconds"]
    odd = dict.fromkeys([*values, "since_first_step_s", "bytes", "pending", "timeout"], number)
    kinds = ["group", "resumed", "steps", "validated", "kept", "uploaded", "retries", "skipped", "group", "resumed"]
    for step, kind in enumerate([*kinds, "steps", "warning", "stopping"]):
        story.see(kind, step, after=1.0, **odd)
    assert story.words()[0].startswith("finished after 0:00:13")
