"""A sweep as a person runs it: killed and started again, with a trial that fails and one that is stopped early."""

import signal

import pytest
from mlflow import MlflowClient

from cluster.sweep.record import SweepRecord
from tests.cluster.sweeping import (
    BETTER,
    GOOD,
    IDLE,
    RATES,
    STEPS,
    WILD,
    kill_sweep_at,
    ledger_of,
    start_sweep,
    sweep_to_end,
)
from tests.cluster.training import lines_with
from tests.patience import PATIENCE_S

# With this seed the first four trials have one rate each: GOOD and WILD, then IDLE and BETTER.
SEARCH = {"search.trials": 4, "search.seed": 215, "search.asha_grace": 0.3, "search.asha_reduction": 2}


@pytest.fixture(scope="module")
def killed_and_continued(tmp_path_factory, store_url):
    """A sweep of four trials whose driver gets SIGKILL when the last has started, and the same command again."""
    home = tmp_path_factory.mktemp("sweep")
    kill_sweep_at("trial 3 starts", home, store_url, RATES, SEARCH)
    ended = {trial.number for trial in ledger_of(home).trials if trial.has_ended}
    code, output = sweep_to_end(home, store_url, RATES, SEARCH, "-o", home / "page")
    assert code == 0, output
    return home, ended, output


@pytest.fixture
def trials(killed_and_continued):
    """Trials by their learning rate."""
    return {trial.settings["optim.generator_lr"]: trial for trial in ledger_of(killed_and_continued[0]).trials}


@pytest.fixture
def runs(killed_and_continued):
    """Runs in MLflow by name."""
    client = MlflowClient(f"sqlite:///{killed_and_continued[0]}/mlflow.db")
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return client, {run.info.run_name: run for run in found}


@pytest.mark.slow
def test_trials_that_ended_are_not_done_again_and_the_others_are(killed_and_continued, trials):
    _, ended, output = killed_and_continued
    assert ended
    for number in ended:
        assert f"trial {number} starts" not in output
        assert f"trial {number} resumes" not in output
    assert all(trial.has_ended for trial in trials.values())
    assert len(trials) == 4


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_sweep_goes_on(trials, runs):
    _, runs = runs
    wild = trials[WILD]
    assert wild.status == "failed"
    assert "the loss is" in wild.reason
    assert runs[wild.run_name].info.status == "FAILED"
    assert wild.reason in runs[wild.run_name].data.tags["metasr.outcome"]
    assert trials[GOOD].status == "finished"
    assert trials[GOOD].best_step == STEPS


@pytest.mark.slow
def test_a_trial_that_is_behind_is_stopped_early_and_ends_in_order(trials, runs):
    _, runs = runs
    idle = trials[IDLE]
    assert idle.status == "stopped early"
    assert idle.reason.startswith("asha: behind others at step")
    assert idle.history[-1].step < STEPS
    assert runs[idle.run_name].info.status == "KILLED"
    assert runs[idle.run_name].data.tags["metasr.outcome"] == "stopped by the scheduler of the sweep"


@pytest.mark.slow
def test_each_trial_is_a_run_below_that_of_the_sweep(killed_and_continued, trials, runs):
    client, runs = runs
    record = ledger_of(killed_and_continued[0])
    parent = runs.pop(record.name)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_objective"] == record.best.best_objective
    assert parent.data.params["space.optim.generator_lr"].startswith('"choice of')
    assert {trial.run_name for trial in trials.values()} == runs.keys()
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert all(trial.run_id == runs[trial.run_name].info.run_id for trial in trials.values())
    objectives = client.get_metric_history(runs[trials[GOOD].run_name].info.run_id, "objective")
    assert {point.step: point.value for point in objectives} == {
        point.step: point.objective for point in trials[GOOD].history
    }
    kept = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.json", "sweep.html"} <= kept


@pytest.mark.slow
def test_the_best_trial_alone_is_registered(killed_and_continued, trials, runs):
    client, _ = runs
    best = ledger_of(killed_and_continued[0]).best
    assert best.best_objective == max(trials[rate].best_objective for rate in (GOOD, BETTER, IDLE))
    (version,) = client.search_model_versions("name = 'meta-srgan'")
    assert version.run_id == best.run_id
    assert version.tags["metasr.sweep"] == ledger_of(killed_and_continued[0]).name
    assert client.get_model_version_by_alias("meta-srgan", "challenger").version == version.version


@pytest.mark.slow
def test_the_end_says_what_was_found_and_how_to_repeat_it(killed_and_continued):
    home, _, output = killed_and_continued
    best = ledger_of(home).best
    assert f"its settings: --optim.generator-lr {best.settings['optim.generator_lr']}" in output
    *_, following, after = output.rstrip().splitlines()
    assert following == f"next: metasr evaluate 1 --tracking.uri sqlite:///{home}/mlflow.db"
    assert after == f"then: metasr promote --model 1 --tracking.uri sqlite:///{home}/mlflow.db"
    assert "Traceback" not in output
    assert SweepRecord.from_json((home / "page" / "sweep.json").read_text()).best.number == best.number
    assert (home / "page" / "index.html").is_file()


@pytest.mark.parametrize("at_once", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_leaves_trials_that_go_on_and_says_how(tmp_path, store_url, at_once):
    endless = {"train.steps": 10**6, "train.pixel_only_steps": 10**6}
    settings = {**SEARCH, **endless, "search.scheduler": "none", "search.concurrent": at_once}
    space = f"space: {{optim.generator_lr: {{loguniform: [{GOOD}, {BETTER}]}}}}\n"
    process = start_sweep(tmp_path, store_url, space, settings)
    try:
        lines_with(process, *(f"trial {number}  step" for number in range(at_once)))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 130
    assert output.rstrip().endswith("run the same command again to continue")
    assert "Traceback" not in output
    trials = ledger_of(tmp_path).trials
    assert [trial.status for trial in trials] == ["waiting"] * at_once
    for trial in trials:
        assert list((tmp_path / "runs" / trial.run_name).glob("step-*/manifest.json"))
