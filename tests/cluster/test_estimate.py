"""Before GPUs are spent: what training would do, and what it will take."""

import json
import os
import subprocess
import sys
import uuid

import boto3
import pytest
from mlflow import MlflowClient

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig
from cluster.planning.estimate import removed
from cluster.planning.forecast import ShortRun, forecast, phases_of
from cluster.recipes import Layer, resolve
from cluster.store import open_store
from cluster.store.lease import Lease
from cluster.stream import read_index
from metasr import manifest
from metasr.data.sample import plan_step
from metasr.errors import TrainingError
from metasr.events import Event
from tests.cluster.training import ROOT, TINY, arguments_of, train_to_end
from tests.patience import PATIENCE_S


def config_of(**settings):
    values = {name.replace("__", "."): value for name, value in settings.items()}
    return resolve(JobConfig, [Layer("test", {**TINY, **values})]).config


def command(verb, home, store_url, settings, *more):
    """Run a verb as a person does, with the places and settings of a small training."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, ROOT / "jobs" / f"{verb}.py", *map(str, arguments_of(home, store_url, settings)), *more],
        cwd=home,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def objects_below(url):
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])


def names_in_mlflow(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [run.info.run_name for run in runs], len(client.search_model_versions())


# A dry run


def test_a_dry_run_says_what_training_would_do_and_leaves_no_trace(tmp_path, store_url):
    settings = {"train.steps": 40, "train.pixel_only_steps": 30, "train.checkpoint_every_steps": 20}
    (tmp_path / "tiny.yaml").write_text("train:\n  steps: 1\n")
    os.utime(tmp_path / "tiny.yaml", (0, 0))
    done = command("train", tmp_path, store_url, settings, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    assert "state: would start from step 0" in done.stdout
    assert "a first batch of 4 crops of 40 x 40 came in" in done.stdout
    assert "steps: 40, of them 30 with the pixel loss alone" in done.stdout
    assert "workers: 2, each 2 of the 4 patches of a step" in done.stdout
    assert "validation: 2 times, 1 slices at scales 1.5, 2" in done.stdout


def test_a_dry_run_needs_every_batch_to_be_shared(tmp_path, store_url):
    done = command("train", tmp_path, store_url, {"train.steps": 40, "resources.num_workers": 5}, "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: resources.num_workers 5: a batch has 4 virtual shards to share")


# A real estimate, beside a real run


@pytest.fixture(scope="module")
def estimated(tmp_path_factory, store_url):
    """A run that is finished, the same run's dry run and estimate, and what lay there before and after."""
    home = tmp_path_factory.mktemp("estimated")
    settings = {
        "train.steps": 24,
        "train.pixel_only_steps": 16,
        "train.checkpoint_every_steps": 12,
        "resources.num_workers": 1,
    }
    train_to_end(home, store_url, settings)
    before = tree(home / "runs"), names_in_mlflow(home)
    dry = command("train", home, store_url, settings, "--dry-run")
    done = command("estimate", home, store_url, settings, "--steps", "3", "--price-per-hour", "3600", "--json")
    assert done.returncode == 0, done.stderr
    return home, before, dry, json.loads(done.stdout)


@pytest.mark.slow
def test_a_dry_run_knows_a_finished_run(estimated):
    assert "state: finished at step 24" in estimated[2].stdout


def files_in(found):
    """Of a tree, the files that are no locks."""
    return {path: time for path, time in found.items() if path.is_file() and not path.name.startswith(".")}


@pytest.mark.slow
def test_an_estimate_removes_what_it_wrote_and_tells_mlflow_nothing(estimated):
    home, (runs, told), _, _ = estimated
    assert files_in(tree(home / "runs")) == files_in(runs)
    assert not list((home / "runs").glob("estimate*"))
    assert not list((home / "spool").glob("estimate-*"))
    assert names_in_mlflow(home) == told


@pytest.mark.slow
def test_an_estimate_adds_up_what_the_schedule_will_do(estimated):
    *_, found = estimated
    pixel, full = found["phases"]
    assert (pixel["name"], pixel["steps"], full["name"], full["steps"]) == ("pixel", 16, "full", 8)
    assert full["step_s"] > pixel["step_s"] > 0
    looks = 2 * (found["validation_s"] + found["checkpoint_s"])
    steps = 16 * pixel["step_s"] + 8 * full["step_s"]
    assert found["total_s"] == pytest.approx(found["once_s"] + steps + looks)
    assert found["workers_price"] == pytest.approx(found["total_s"])  # one worker at 1 a second


@pytest.mark.slow
def test_the_checkpoints_of_an_estimate_are_as_large_as_those_of_the_run(estimated):
    home, _, _, found = estimated
    (ledger,) = (home / "runs").glob("*/checkpoints.json")
    entries = RunCheckpoints(open_store(str(home / "runs")), ledger.parent.name).entries()
    assert found["checkpoint_bytes"] == pytest.approx(entries[0].num_bytes, rel=0.02)
    assert found["storage_bytes"] == pytest.approx(sum(entry.num_bytes for entry in entries), rel=0.02)
    assert found["storage_bytes"] < 1.9 * found["checkpoint_bytes"]  # that of the pixel loss alone is smaller


@pytest.mark.parametrize("number", [1, 3])
def test_a_run_is_removed_from_a_bucket_too(s3_url, tmp_path, number):
    url = f"{s3_url}/{uuid.uuid4().hex}"
    open_store(url).put("another-run/lease.json", b"stays")
    config = config_of(storage__url=url, storage__spool=str(tmp_path))
    manifest.seal(tmp_path, "checkpoint", {})
    with removed(config, "estimate-1") as storage, Lease.acquire(storage, "estimate-1", print) as lease:
        checkpoints = RunCheckpoints(storage, "estimate-1").claim(lease.fence)
        for step in range(number):
            checkpoints.publish(tmp_path, step, None, keep=number)
        assert objects_below(url)
    (left,) = objects_below(url)
    assert left["Key"].endswith("/another-run/lease.json")


# What is made of measured steps


def told(config, steps, seconds_of, looks=((1.0, 0.5, 1000),)):
    """Events of a run whose steps take the seconds that `seconds_of` gives for a plan.

    At the end of each phase is one of `looks`: seconds for the validation and for the checkpoint, and its bytes.
    """
    plans = [plan_step(config, step) for step in range(steps)]
    steps_told = [
        Event("steps", step + 1, {"steps_per_s": 1 / seconds_of(plan), "waiting_share": 0.25})
        for step, plan in enumerate(plans)
    ]
    looks_told = []
    for number, (validation_s, checkpoint_s, num_bytes) in enumerate(looks, 1):
        step = number * steps // len(looks)
        looks_told += [
            Event("validated", step, {"seconds": validation_s}),
            Event("kept", step, {"seconds": checkpoint_s}),
            Event("uploaded", step, {"seconds": 2.0, "bytes": num_bytes}),
        ]
    return (*steps_told, *looks_told)


def forecast_of(config, store_url, events, wall_s=100.0):
    data = open_store(store_url)
    return forecast(config, data, read_index(data), ShortRun(events, 5, 20, 1.0, wall_s))


def test_a_few_steps_stand_for_all_scales_not_for_those_they_had(store_url):
    config = config_of(train__steps=1000, loss__adversarial=0, train__scale_max=3.0)

    def seconds(plan):
        return 0.1 + plan.lr_px**2 / 1000 + plan.hr_px**2 / 5000

    events = told(config, 25, seconds)
    found = forecast_of(config, store_url, events)
    everything = sum(seconds(plan_step(config, step)) for step in range(1000))
    assert found.phases[0].step_s * 1000 == pytest.approx(everything, rel=1e-6)
    assert found.waiting_share == pytest.approx(0.25)


def test_each_kind_of_step_is_counted_at_the_scales_that_its_own_steps_will_have(store_url):
    config = config_of(train__steps=200, train__pixel_only_steps=190, train__scale_max=3.0)

    def seconds(plan):
        return 0.1 + plan.lr_px**2 / 1000

    pixel, full = forecast_of(config, store_url, told(config, 50, seconds)).phases
    assert pixel.step_s * 190 == pytest.approx(sum(seconds(plan_step(config, step)) for step in range(190)))
    assert full.step_s * 10 == pytest.approx(sum(seconds(plan_step(config, step)) for step in range(190, 200)))


def test_steps_that_warm_up_do_not_count(store_url):
    config = config_of(train__steps=1000, loss__adversarial=0)
    slow = [Event("steps", number, {"steps_per_s": 0.01, "waiting_share": 1}) for number in range(1, 6)]
    events = (*slow, *told(config, 25, lambda plan: 0.5)[5:])
    found = forecast_of(config, store_url, events, wall_s=600.0)
    assert found.phases[0].step_s == pytest.approx(0.5)


def test_what_the_first_validation_takes_longer_is_paid_once(store_url):
    config = config_of(train__steps=1000, train__pixel_only_steps=500, train__checkpoint_every_steps=10)
    events = told(config, 50, lambda plan: 0.5, looks=((9.0, 3.0, 1), (1.0, 0.5, 1)))
    found = forecast_of(config, store_url, events, wall_s=60.0)
    assert (found.validation_s, found.checkpoint_s) == (1.0, 0.5)
    assert found.once_s == pytest.approx(60 - 50 * 0.5 - 2 * 1.5)
    assert found.total_s == pytest.approx(found.once_s + 1000 * 0.5 + 100 * 1.5)


@pytest.mark.parametrize(
    ("steps", "pixel_only_steps", "expected"),
    [
        (500, 440, 70 + 3 * 20),  # the newest three, and one of those before
        (450, 440, 70 + 3 * 20),  # the newest is not due, but the end
        (1000, 440, 4 * 70),
        (700, 440, 3 * 70 + 20),  # the best is one of the pixel loss alone
        (200, 140, 70 + 20),  # there are two in all
    ],
)
def test_storage_is_that_of_the_checkpoints_which_are_kept_at_the_end(store_url, steps, pixel_only_steps, expected):
    config = config_of(
        train__steps=steps,
        train__pixel_only_steps=pixel_only_steps,
        train__checkpoint_every_steps=100,
        train__keep_checkpoints=3,
    )
    events = told(config, 50, lambda plan: 0.5, looks=((1.0, 1.0, 20), (1.0, 1.0, 70)))
    assert forecast_of(config, store_url, events).storage_bytes == expected


def test_a_run_that_told_of_too_few_steps_gives_no_estimate(store_url):
    events = told(config_of(train__steps=1000), 25, lambda plan: 0.5)
    with pytest.raises(TrainingError, match="too few steps"):
        forecast_of(config_of(train__steps=1000, train__pixel_only_steps=10), store_url, events)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train__pixel_only_steps": 0}, [("full", 10)]),
        ({"train__pixel_only_steps": 4}, [("pixel", 4), ("full", 6)]),
        ({"train__pixel_only_steps": 99}, [("pixel", 10)]),
        ({"train__pixel_only_steps": 4, "loss__adversarial": 0}, [("pixel", 10)]),
    ],
)
def test_steps_are_measured_apart_only_where_there_are_two_kinds(settings, expected):
    assert [(phase.name, phase.steps) for phase in phases_of(config_of(train__steps=10, **settings))] == expected
