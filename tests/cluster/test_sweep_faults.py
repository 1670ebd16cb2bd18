"""A sweep in trouble: processes killed, no memory, a generator that collapses, limits, Ctrl-C and a second driver."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.checkpoints import RunCheckpoints
from cluster.store import open_store
from cluster.sweep.budget import COST_UP, TIME_UP
from tests.chaos.killer import descendants, send, train_workers
from tests.cluster.sweeping import ledger_of, start_sweep, sweep_to_end
from tests.cluster.training import line_with, lines_with
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.slow
EVERY, STEPS = 20, 400
ENDLESS = 10**6
FURTHER_S = 10
TOO_MANY = 2**44  # patches in a batch: petabytes
FAULTY_SPACE = f"""space:
  optim.generator_lr: {{choice: [0.0002, 0.0003]}}
  loss.adversarial: {{choice: [0, 1]}}
  train.batch_size: {{choice: [4, {TOO_MANY}]}}
"""
# With this seed the first two trials are small and have no discriminator; the third is too large, and the last is
# judged by a discriminator when its images are still flat: no bicubic image is below them, and 19 steps add little.
FAULTY = {
    "search.trials": 4,
    "search.seed": 344,
    "search.scheduler": "none",
    "train.steps": STEPS,
    "train.pixel_only_steps": EVERY - 1,
    "train.batch_size": None,
    "model.skip": "none",
}
KILLED_WORKER, KILLED_ACTOR, TOO_LARGE, COLLAPSED = range(4)
LIMITED_SPACE = "space: {optim.generator_lr: {loguniform: [0.0005, 0.001]}}\n"
LIMITED = {
    "search.trials": 2,
    "search.scheduler": "none",
    "train.steps": ENDLESS,
    "train.pixel_only_steps": ENDLESS,
}
MENDED = {
    "search.trials": 3,
    "search.scheduler": "none",
    "train.steps": STEPS,
    "train.pixel_only_steps": STEPS,
}


def newest_step(home, number):
    history = ledger_of(home).trials[number].history
    return history[-1].step if history else 0


def line_of_new_step(process, home, number):
    """Wait until a trial tells of a step that nobody knows of yet."""
    known = newest_step(home, number)
    while True:
        found = re.search(r"step (\d+)/", line_with(process, f"trial {number}  step"))
        if int(found[1]) > known:
            return


def actor_of(home, number):
    """Return the process of a trial, which has the lease of its run."""
    lease = home / "runs" / ledger_of(home).trials[number].run_name / "lease.json"
    pid = json.loads(lease.read_text())["holder"]["pid"]
    assert b"TrialRun" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid


def press_ctrl_c(process):
    """Send what a terminal sends, and to whom: all processes of the command's group."""
    group = os.getpgid(process.pid)
    others = [pid for pid in descendants(process.pid) if os.getpgid(pid) == group]
    send(signal.SIGINT, [process.pid, *others])


def runs_of(home):
    """Return MLflow's client, and runs by name."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return client, {run.info.run_name: run for run in found}


def resumed_at(home, number):
    """Return the steps from which the workers of a trial went on, as MLflow has them."""
    client, runs = runs_of(home)
    run = runs[ledger_of(home).trials[number].run_name]
    return [int(point.value) for point in client.get_metric_history(run.info.run_id, "run/resumed_at_step")]


def newest_kept(home):
    """Return for each trial the step of its newest checkpoint."""
    storage = open_store(str(home / "runs"))
    return [RunCheckpoints(storage, trial.run_name).entries()[0].step for trial in ledger_of(home).trials]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, store_url):
    """Home and output of a sweep of which workers and an actor are killed, and of which two trials cannot go well."""
    home = tmp_path_factory.mktemp("faulty")
    process = start_sweep(home, store_url, FAULTY_SPACE, FAULTY)
    try:
        seen = lines_with(process, f"trial {KILLED_WORKER}  step", f"trial {KILLED_ACTOR}  step")
        line_of_new_step(process, home, KILLED_WORKER)  # the checkpoint of the step before it is kept
        workers = train_workers(process.pid)
        send(signal.SIGKILL, workers)
        line_of_new_step(process, home, KILLED_ACTOR)
        send(signal.SIGKILL, [actor_of(home, KILLED_ACTOR)])
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert len(workers) == 2
    assert process.returncode == 0, "".join(seen) + output
    return home, output


def test_a_trial_whose_worker_is_killed_goes_on_within_itself(faulty):
    home, output = faulty
    trial = ledger_of(home).trials[KILLED_WORKER]
    assert (trial.status, trial.reason) == ("finished", "")
    assert [point.step for point in trial.history] == list(range(EVERY, STEPS + 1, EVERY))
    assert f"trial {KILLED_WORKER}: its process died" not in output
    started, went_on = resumed_at(home, KILLED_WORKER)
    assert started == 0
    assert went_on > 0
    report = json.loads((home / "runs" / trial.run_name / "run-report.json").read_text())
    assert [restart["resumed_step"] for restart in report["restarts"]] == [went_on]


def test_a_trial_whose_own_process_is_killed_is_started_again_and_goes_on(faulty):
    home, output = faulty
    trial = ledger_of(home).trials[KILLED_ACTOR]
    assert (trial.status, trial.reason) == ("finished", "")
    assert [point.step for point in trial.history] == list(range(EVERY, STEPS + 1, EVERY))
    assert f"trial {KILLED_ACTOR}: its process died; restarting it" in output
    assert f"trial {KILLED_ACTOR} resumes" in output
    assert f"trial {KILLED_ACTOR} starts" not in output
    started, *went_on = resumed_at(home, KILLED_ACTOR)
    assert started == 0
    assert went_on[-1] > 0  # its worker was killed before, perhaps when no checkpoint was kept yet
    report = json.loads((home / "runs" / trial.run_name / "run-report.json").read_text())
    assert report["steps"]["from"] == went_on[-1]  # it was begun anew with the process


def test_a_trial_that_needs_too_much_memory_fails_and_says_so(faulty):
    home, output = faulty
    trial = ledger_of(home).trials[TOO_LARGE]
    assert trial.settings["train.batch_size"] == TOO_MANY
    assert trial.status == "failed"
    assert "MemoryError: Unable to allocate" in trial.reason
    assert f"trial {TOO_LARGE} failed: {trial.reason}" in output
    assert runs_of(home)[1][trial.run_name].info.status == "FAILED"


def test_a_trial_whose_generator_collapses_fails_and_says_so(faulty):
    home, output = faulty
    trial = ledger_of(home).trials[COLLAPSED]
    assert trial.status == "failed"
    assert re.match(r"the generator has collapsed: its images have \d+% of the originals' contrast", trial.reason)
    assert newest_step(home, COLLAPSED) == EVERY
    assert trial.reason in output
    run = runs_of(home)[1][trial.run_name]
    assert run.info.status == "FAILED"
    assert trial.reason in run.data.tags["metasr.outcome"]


def test_the_best_of_the_others_is_registered(faulty):
    home, output = faulty
    client, runs = runs_of(home)
    best = ledger_of(home).best
    assert best.number in (KILLED_WORKER, KILLED_ACTOR)
    (version,) = client.search_model_versions("name = 'meta-srgan'")
    assert version.run_id == runs[best.run_name].info.run_id
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def limited(tmp_path_factory, store_url):
    """A sweep that has no end, by parts: what the store and the command said after each, and what its trials kept."""
    home, parts = tmp_path_factory.mktemp("limited"), {}

    def keep(part, code, output):
        parts[part] = code, output, ledger_of(home), newest_kept(home)

    began = time.monotonic()
    process = start_sweep(home, store_url, LIMITED_SPACE, LIMITED)
    try:
        lines_with(process, "trial 0  step", "trial 1  step")
        seconds = time.monotonic() - began
        parts["rival"] = process.pid, *sweep_to_end(home, store_url, LIMITED_SPACE, LIMITED)
        line_of_new_step(process, home, 0)
        line_of_new_step(process, home, 1)
        press_ctrl_c(process)
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    keep("ctrl-c", process.returncode, output)
    hours = seconds / 3600  # enough to start, as it was before
    keep("time", *sweep_to_end(home, store_url, LIMITED_SPACE, LIMITED, "--max-time", hours))
    cost = sum(trial.seconds + FURTHER_S for trial in ledger_of(home).trials)  # the start costs nothing
    limits = "--max-time", 1, "--max-cost", cost, "--price-per-hour", 3600
    keep("cost", *sweep_to_end(home, store_url, LIMITED_SPACE, LIMITED, *limits))
    one_by_one = LIMITED | {"search.concurrent": 1}
    keep("again", *sweep_to_end(home, store_url, LIMITED_SPACE, one_by_one, *limits))
    return home, parts


def check_went_on(home, before, after, place):
    """Assert that a part of the sweep went on with the trials of the one before, from what they had kept."""
    _, _, earlier, kept = before
    _, output, later, newer = after
    assert [trial.run_name for trial in later.trials] == [trial.run_name for trial in earlier.trials]
    for trial in earlier.trials:
        assert f"trial {trial.number} resumes" in output
        assert f"trial {trial.number} starts" not in output
        assert resumed_at(home, trial.number)[place] == kept[trial.number] > 0
        assert later.trials[trial.number].seconds > trial.seconds
        assert newer[trial.number] > kept[trial.number]


def check_stopped(part, reason):
    """Assert that a limit ended a part of the sweep, in order."""
    code, output, record, _ = part
    assert code == 0, output
    assert f"{reason}: trials save a checkpoint and stop" in output
    assert [(trial.status, trial.reason) for trial in record.trials] == [("stopped early", reason)] * 2
    assert f"trial {record.best.number} is version " in output
    assert "Traceback" not in output


def test_a_second_driver_is_refused_and_harms_nothing(limited):
    _, parts = limited
    first, code, output = parts["rival"]
    assert code == 2
    assert f"another driver is at work on it: process {first} on" in output
    assert "Wait for its end, or end it there" in output
    assert "Traceback" not in output
    assert "taken it over" not in parts["ctrl-c"][1]


def test_ctrl_c_leaves_trials_that_wait_and_says_how_to_go_on(limited):
    _, parts = limited
    code, output, record, _ = parts["ctrl-c"]
    assert code == 130, output
    assert output.rstrip().endswith("run the same command again to continue")
    assert [trial.status for trial in record.trials] == ["waiting"] * 2
    assert "Traceback" not in output


def test_after_ctrl_c_trials_go_on_until_the_time_is_up(limited):
    home, parts = limited
    check_stopped(parts["time"], TIME_UP)
    check_went_on(home, parts["ctrl-c"], parts["time"], 1)


def test_with_more_time_the_same_trials_go_on_until_the_money_is_spent(limited):
    home, parts = limited
    check_stopped(parts["cost"], COST_UP)
    check_went_on(home, parts["time"], parts["cost"], 2)


def test_where_the_money_was_spent_before_no_trial_goes_on_and_the_best_stays_the_best(limited):
    _, parts = limited
    code, output, record, kept = parts["again"]
    assert code == 0, output
    assert f"{COST_UP}: no trial is resumed" in output
    assert f"trial {record.best.number} is version " in output
    assert (record, kept) == parts["cost"][2:]


def test_what_was_best_when_a_limit_was_reached_is_the_challenger(limited):
    home, parts = limited
    client, runs = runs_of(home)
    version = client.get_model_version_by_alias("meta-srgan", "challenger")
    _, _, record, _ = parts["cost"]
    assert version.run_id == runs[record.best.run_name].info.run_id
    assert {runs[trial.run_name].info.status for trial in record.trials} == {"KILLED"}


@pytest.fixture(scope="module")
def mended(tmp_path_factory, store_url):
    """Home of a sweep that no trial could begin; what it said then, and when that was mended and an actor killed."""
    home = tmp_path_factory.mktemp("mended")
    data = shutil.copytree(store_url.removeprefix("file://"), home / "data")
    _, shard = sorted(data.glob("train-*.tar"))  # a sweep that starts reads the first, and the last of all
    content = shard.read_bytes()
    shard.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    first = *sweep_to_end(home, data, LIMITED_SPACE, MENDED), ledger_of(home)
    shard.write_bytes(content)
    process = start_sweep(home, data, LIMITED_SPACE, MENDED | {"resources.max_failures": 0})
    try:
        seen = lines_with(process, "trial 0  step")
        send(signal.SIGKILL, [actor_of(home, 0)])
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    return home, first, (process.returncode, "".join(seen) + output, ledger_of(home))


def test_where_all_trials_fail_in_the_same_way_the_sweep_ends_and_says_so(mended):
    _, (code, output, record), _ = mended
    assert code == 1
    assert "Fix that, and run the same command again" in output
    assert [trial.status for trial in record.trials] == ["failed"] * 3
    assert record.common_failure in output
    assert "Traceback" not in output


def test_when_that_is_mended_the_same_command_trains_these_trials(mended):
    _, (_, _, before), (code, output, record) = mended
    assert code == 0, output
    assert [trial.run_name for trial in record.trials] == [trial.run_name for trial in before.trials]
    assert [(trial.status, trial.reason) for trial in record.trials[1:]] == [("finished", "")] * 2
    assert all(trial.best_step for trial in record.trials)


def test_a_trial_whose_process_dies_more_often_than_allowed_has_failed(mended):
    home, _, (_, output, record) = mended
    killed = record.trials[0]
    assert killed.status == "failed"
    assert killed.reason.startswith("its process died too often")
    assert "restarting it" not in output
    assert runs_of(home)[1][killed.run_name].info.status == "FAILED"
