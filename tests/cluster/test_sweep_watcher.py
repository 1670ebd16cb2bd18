"""What the driver of a sweep makes of what Ray Tune tells it, and of an earlier driver's ledger: without Ray."""

from types import SimpleNamespace

import pytest

from cluster.recipes import Layer
from cluster.store import open_store
from cluster.sweep import watcher as watcher_module
from cluster.sweep.ledger import TrialLedger
from cluster.sweep.record import Point, SweepRecord
from cluster.sweep.space import SweepPlan
from cluster.sweep.sweep import requeue
from cluster.sweep.trial import HAS_WORKERS, IDLE_S
from cluster.sweep.watcher import Watcher
from jobs.cli import RECIPES
from jobs.tune import SWEEPS

RATE, WORKERS = "optim.generator_lr", 2


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "s.yaml").write_text(f"space: {{{RATE}: {{loguniform: [1e-4, 1e-2]}}}}\ntrain: {{steps: 90}}")
    return SweepPlan.read(
        str(tmp_path / "s.yaml"), SWEEPS, "smoke", RECIPES, Layer("flags", {"resources.num_workers": WORKERS})
    )


@pytest.fixture
def driver(plan, tmp_path):
    """Return the next driver of one sweep, and what it says."""
    store, fences, said = open_store(str(tmp_path / "runs")), iter(range(1, 100)), []
    record = SweepRecord(name="sweep-1", recipe="smoke", objective="o", scales=("2",), space={RATE: "some"})

    def take_over():
        ledger = TrialLedger(store, "sweeps/sweep-1", next(fences), record)
        requeue(ledger)
        log = SimpleNamespace(metrics=lambda step, values: None)
        return Watcher(plan, ledger, store, "d" * 64, log, said.append), said

    return take_over


def tune_trial(name, rate):
    return SimpleNamespace(trial_id=name, config={RATE: rate}, last_result={})


def start(watcher, trial):
    """Start a trial, which gets workers at once."""
    watcher.on_trial_start(0, [], trial)
    has_workers(watcher, trial, True)


def has_workers(watcher, trial, are_there, idle_s=0.0):
    watcher.on_trial_result(0, [], trial, {HAS_WORKERS: are_there, IDLE_S: idle_s})


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(watcher_module, "time", clock)
    return clock


def end(watcher, trial, outcome, reason=""):
    trial.last_result = {"outcome": outcome, "reason": reason}
    watcher.on_trial_complete(0, [], trial)


def validate(watcher, trial, step, objective=0.1):
    point = Point(step=step, objective=objective, metrics={})
    watcher.on_trial_result(0, [], trial, {"point": point.model_dump_json()})


def fail(watcher, *reasons):
    """Have new trials fail; return what the watcher thinks of it after each."""
    found = []
    for place, reason in enumerate(reasons, start=1):
        trial = tune_trial(f"failed-{place}", 0.001 * place)
        watcher.on_trial_start(0, [], trial)
        end(watcher, trial, "failed", reason)
        found.append(watcher.common_failure)
    return found


def test_where_all_trials_fail_in_the_same_way_the_same_command_tries_them_again(driver):
    watcher, _ = driver()
    *before, found = fail(watcher, "no room", "no room", "another", "no room")
    assert before == [""] * 3
    assert found == "all trials fail in the same way: no room"
    mended, said = driver()
    assert mended.common_failure == ""
    assert [(trial.status, trial.reason) for trial in mended.trials] == [("waiting", "")] * 4
    again = tune_trial("again", 0.001)
    mended.on_trial_start(0, [], again)
    validate(mended, again, 30)
    end(mended, again, "finished")
    assert said[-1].startswith("trial 0 finished")
    assert len(mended.trials) == 4


def test_where_a_trial_has_come_to_a_validation_failures_are_those_of_the_settings(driver):
    watcher, _ = driver()
    good = tune_trial("good", 0.009)
    watcher.on_trial_start(0, [], good)
    validate(watcher, good, 30)
    assert fail(watcher, *["the loss is NaN"] * 3) == [""] * 3
    after, _ = driver()
    assert [trial.status for trial in after.trials] == ["waiting", "failed", "failed", "failed"]


def test_a_process_that_dies_before_it_has_started_is_started_again(driver):
    watcher, said = driver()
    trial = tune_trial("new", 0.001)
    watcher.on_trial_recover(0, [], trial)
    assert said == ["trial 0: its process died; restarting it"]
    watcher.on_trial_start(0, [], trial)
    validate(watcher, trial, 30)
    assert [(one.status, len(one.history)) for one in watcher.trials] == [("running", 1)]


def test_a_process_that_never_starts_is_a_trial_that_failed_and_the_others_go_on(driver):
    watcher, _ = driver()
    fail(watcher, "no room")
    trial = tune_trial("new", 0.009)
    watcher.on_trial_recover(0, [], trial)
    watcher.on_trial_error(0, [], trial)
    assert [one.status for one in watcher.trials] == ["failed"] * 2
    assert watcher.trials[1].reason == "its process died too often: see Ray's logs for the reason"
    after, _ = driver()
    other = tune_trial("other", 0.002)
    after.on_trial_start(0, [], other)
    assert [one.status for one in after.trials] == ["failed", "failed", "running"]


def test_time_of_earlier_drivers_is_not_forgotten_where_a_process_dies_at_once(driver):
    watcher, _ = driver()
    trial = tune_trial("one", 0.001)
    start(watcher, trial)
    validate(watcher, trial, 30)
    before_s = watcher.trials[0].seconds
    after, _ = driver()
    after.on_trial_error(0, [], tune_trial("two", 0.001))
    assert after.trials[0].seconds >= before_s > 0


def test_time_counts_while_there_are_workers_and_not_while_a_trial_waits(driver, clock):
    watcher, _ = driver()
    trial = tune_trial("one", 0.001)
    watcher.on_trial_start(0, [], trial)
    clock.now += 3600  # there is no room
    assert watcher.worker_seconds == 0
    has_workers(watcher, trial, True)
    clock.now += 70
    has_workers(watcher, trial, True, 20.0)  # a worker has died, and its place was gone for a while
    clock.now += 30
    has_workers(watcher, trial, False, 10.0)  # nothing was heard of them for a while
    clock.now += 3600  # the store is away
    assert watcher.worker_seconds == 70 * WORKERS
    end(watcher, trial, "finished")
    assert watcher.trials[0].seconds == 70


def test_time_counts_also_where_a_driver_dies_before_a_validation(driver, clock):
    watcher, _ = driver()
    start(watcher, tune_trial("one", 0.001))
    written = []
    for _ in range(36_000):  # an hour, as often as Tune looks at its trials
        clock.now += 0.1
        watcher.on_step_end(0, [])
        written.append(watcher.trials[0].seconds)
    after, _ = driver()
    assert 3540 * WORKERS <= after.worker_seconds <= 3601 * WORKERS
    assert len(set(written)) <= 61
