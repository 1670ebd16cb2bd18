"""A run that goes on by its name alone: `metasr train --resume RUN`."""

import json

import pytest

from tests.cluster.stored import store_run
from tests.jobs.command import assert_one_error


@pytest.fixture
def storage(home):
    return ["--storage.url", home / "runs"]


def test_a_run_goes_on_by_its_name_with_its_own_settings(metasr, home, store_url, storage):
    run = store_run(home, store_url, {"resources.num_workers": 4})
    outcome = metasr("train", "--resume", run, "--dry-run", *storage)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"run {run}, code ")
    assert "state: would continue from step 4 (checkpoints of steps 4, 2)" in outcome.out
    assert "workers: 4, " in outcome.out


@pytest.mark.parametrize("place", ["{home}/runs/{run}", "runs/{run}/", "file://{home}/runs/{run}"])
def test_a_run_goes_on_by_its_place(metasr, home, store_url, place):
    run = store_run(home, store_url)
    outcome = metasr("train", "--resume", place.format(home=home, run=run), "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"run {run}, " in outcome.out
    assert "would continue from step 4" in outcome.out


def test_a_run_that_was_moved_goes_on_where_it_is(metasr, home, store_url):
    run = store_run(home, store_url)
    (home / "runs").rename(home / "elsewhere")
    outcome = metasr("train", "--resume", home / "elsewhere" / run, "--dry-run")
    assert "would continue from step 4" in outcome.out
    assert f"stay in file://{home}/elsewhere\n" in outcome.out


def test_what_leaves_it_the_same_run_may_change(metasr, home, store_url, storage):
    run = store_run(home, store_url)
    outcome = metasr("train", "--resume", run, "--resources.num-workers", "1", "--dry-run", *storage)
    assert f"run {run}, " in outcome.out
    assert "workers: 1, " in outcome.out


def test_where_each_of_its_settings_comes_from_is_told(metasr, home, store_url, storage):
    run = store_run(home, store_url)
    outcome = metasr("train", "--resume", run, "--resources.num-workers", "1", "--print-config", *storage)
    assert f"  steps: 8{'':43}# run {run}\n" in outcome.out
    assert "  num_workers: 1" in outcome.out
    assert "# command line" in outcome.out


@pytest.mark.parametrize(
    ("flag", "value"), [("--loss.adversarial", "0.002"), ("--train.steps", "9"), ("--eval.scales", "1.5,3")]
)
def test_what_would_make_it_another_run_is_refused_with_the_way_to_fork(
    metasr, home, store_url, storage, flag, value
):
    run = store_run(home, store_url)
    outcome = metasr("train", "--resume", run, flag, value, *storage)
    assert_one_error(outcome, f"error: {flag} {value}: run {run} has ", "another run", f"--fork {run}@4", f"{flag} ")


def test_the_value_that_it_has_may_be_repeated(metasr, home, store_url, storage):
    run = store_run(home, store_url)
    assert metasr("train", "--resume", run, "--train.steps", "8", "--dry-run", *storage).code == 0


def test_a_run_that_started_from_a_model_is_found_again(metasr, home, store_url, storage):
    run = store_run(home, store_url, initial="f" * 64)
    outcome = metasr("train", "--resume", run, "--dry-run", *storage)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"run {run}, " in outcome.out


def test_a_checkpoint_that_is_damaged_is_passed_over(metasr, home, store_url, storage):
    run = store_run(home, store_url)
    (newest,) = (home / "runs" / run).glob("step-00000004-*")
    (newest / "manifest.json").write_text("{}")
    assert f"run {run}, " in metasr("train", "--resume", run, "--dry-run", *storage).out


def test_a_run_that_is_not_there_is_one_line_with_the_nearest(metasr, home, store_url, storage):
    run = store_run(home, store_url)
    outcome = metasr("train", "--resume", f"{run[:-1]}x", *storage)
    assert_one_error(outcome, f"run {run[:-1]}x: there is no such run in file://{home}/runs", f"Did you mean {run}?")
    assert_one_error(metasr("train", "--resume", "other", *storage), "`metasr runs` lists them")


def test_a_run_without_a_checkpoint_needs_its_settings(metasr, home, store_url, storage):
    run = store_run(home, store_url, steps=())
    assert_one_error(metasr("train", "--resume", run, *storage), "no checkpoint yet", "the same command goes on")


def test_a_run_takes_no_recipe(metasr, home, storage):
    outcome = metasr("train", "--resume", "x", "--recipe", "smoke", *storage)
    assert_one_error(outcome, "--resume x and --recipe smoke", "its own settings")


def test_a_later_format_is_told(metasr, home, store_url, storage):
    run = store_run(home, store_url)
    ledger = home / "runs" / run / "checkpoints.json"
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"format": 9}))
    assert_one_error(metasr("train", "--resume", run, *storage), "format 9")
