"""Population based training as a person runs it, its driver killed in the middle."""

import subprocess
import sys

import pytest
from mlflow import MlflowClient

from cluster.checkpoints import RunCheckpoints
from cluster.store import open_store
from cluster.sweep.outcome import as_flags
from tests.cluster.sweeping import BETTER, IDLE, STEPS, kill_sweep_at, ledger_of, sweep_to_end
from tests.cluster.training import ROOT, TINY, flags, places

pytestmark = pytest.mark.slow
SPACE = f"space: {{optim.generator_lr: {{loguniform: [{IDLE}, {BETTER}]}}}}\n"
# With this seed one of the two learns nothing to speak of.
SEARCH = {
    "search.trials": 2,
    "search.scheduler": "pbt",
    "search.pbt_interval": 0.3,
    "search.pbt_quantile": 0.5,
    "search.seed": 190,
}


@pytest.fixture(scope="module")
def killed_and_continued(tmp_path_factory, store_url):
    """A population of two whose driver gets SIGKILL when one has been replaced, and the same command again."""
    home = tmp_path_factory.mktemp("population")
    kill_sweep_at("starts from", home, store_url, SPACE, SEARCH)
    code, output = sweep_to_end(home, store_url, SPACE, SEARCH)
    assert code == 0, output
    return home, output


@pytest.fixture
def trials(killed_and_continued):
    return ledger_of(killed_and_continued[0]).trials


def test_a_trial_that_is_behind_is_replaced_by_a_fork_of_a_better_one(trials):
    idle, good = sorted(trials[:2], key=lambda trial: trial.settings["optim.generator_lr"])
    forked = trials[2]
    assert idle.status == "replaced"
    assert idle.reason == (f"pbt: replaced by trial 2, a fork of trial {good.number} at step {forked.fork.step}")
    assert forked.fork.run_name == good.run_name
    assert 0 < forked.fork.step < STEPS
    assert all(point.step > forked.fork.step for point in forked.history)
    assert forked.settings not in (good.settings, idle.settings)


def test_a_killed_driver_goes_on_with_the_population_it_had(killed_and_continued, trials):
    _, output = killed_and_continued
    assert sum(trial.status == "finished" for trial in trials) == 2
    assert all(trial.status in ("finished", "replaced") for trial in trials)
    assert all(trial.fork for trial in trials[2:])
    assert f"trial {trials[0].number if trials[0].status == 'replaced' else trials[1].number} starts" not in output
    assert "Traceback" not in output


def test_every_trial_is_a_run_of_its_own_in_mlflow(killed_and_continued, trials):
    client = MlflowClient(f"sqlite:///{killed_and_continued[0]}/mlflow.db")
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    runs = {run.info.run_name: run for run in found}
    for trial in trials:
        run = runs[trial.run_name]
        assert run.data.tags.get("metasr.forked_from", "") == (str(trial.fork) if trial.fork else "")
        assert run.data.params["optim.generator_lr"] == str(trial.settings["optim.generator_lr"])
        # One that is replaced may be through with its few steps before it hears of it.
        assert run.info.status in (("FINISHED",) if trial.status == "finished" else ("KILLED", "FINISHED"))


def test_a_fork_can_be_trained_by_hand_from_what_the_sweep_says_of_it(killed_and_continued, trials, store_url):
    home, _ = killed_and_continued
    forked = next(trial for trial in trials if trial.fork and trial.status == "finished")
    assert RunCheckpoints(open_store(str(home / "runs")), forked.run_name).finished()["step"] == str(STEPS)
    short = {"train.steps": STEPS, "train.checkpoint_every_steps": 20, "train.pixel_only_steps": STEPS}
    given = flags({"data.url": store_url, **places(home), **TINY, **short, "resources.num_workers": 1})
    command = [sys.executable, ROOT / "jobs" / "train.py", "--recipe", home / "tiny.yaml", *given]
    done = subprocess.run([*command, *as_flags(forked).split(), "--dry-run"], capture_output=True, text=True)
    assert f"run {forked.run_name}," in done.stdout, done.stderr
    assert f"finished at step {STEPS}" in done.stdout
