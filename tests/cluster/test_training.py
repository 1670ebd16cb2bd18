"""Training through Ray Train, as a person runs it: a process of its own, killed and started again."""

import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cluster.checkpoints import RunCheckpoints
from cluster.store import open_store
from metasr.inference.bundle import load_bundle
from tests.cluster.training import (
    checkpoints_of,
    line_with,
    newest_digest,
    only_run,
    registered,
    start_training,
    state_digest,
    train_locally,
    train_to_end,
)
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def killed_and_continued(tmp_path_factory, store_url):
    """A run of 200 steps whose driver gets SIGKILL after its first checkpoint, and the same command again."""
    home = tmp_path_factory.mktemp("killed")
    settings = {
        "train.steps": 200,
        "train.checkpoint_every_steps": 20,
        "train.pixel_only_steps": 190,
        "resources.num_workers": 1,
    }
    process = start_training(home, store_url, settings)
    deadline = time.monotonic() + PATIENCE_S
    while not list((home / "runs").rglob("step-*/manifest.json")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return home, settings, train_to_end(home, store_url, settings)


def test_the_same_command_continues_after_the_driver_was_killed(killed_and_continued):
    home, _, output = killed_and_continued
    client, run = only_run(home)
    resumed = [point.step for point in client.get_metric_history(run.info.run_id, "run/resumed_at_step")]
    assert 1 <= len(resumed) <= 2  # of the first start, and of the second
    assert 0 < resumed[-1] < 200
    assert resumed[-1] % 20 == 0
    assert f"step {resumed[-1]}/200  resuming from the checkpoint of this step" in output
    assert run.info.status == "FINISHED"


def test_a_continued_run_ends_as_an_uninterrupted_one_to_the_bit(killed_and_continued, store_url):
    home, settings, _ = killed_and_continued
    step, digest = newest_digest(checkpoints_of(home / "runs"))
    assert step == 200
    assert digest == state_digest(train_locally(home, store_url, settings))


def test_a_finished_run_is_left_as_it_is(killed_and_continued, store_url):
    home, settings, _ = killed_and_continued
    assert "was already finished" in train_to_end(home, store_url, settings)
    client, _ = only_run(home)
    assert len(client.search_model_versions("name = 'meta-srgan'")) == 1


@pytest.mark.slow
def test_a_finished_run_can_be_registered_under_another_name_too(killed_and_continued, store_url):
    home, settings, _ = killed_and_continued
    assert "was already finished" in train_to_end(home, store_url, settings | {"tracking.model": "edsr-x2"})
    client, run = only_run(home)
    assert client.get_model_version_by_alias("edsr-x2", "challenger").run_id == run.info.run_id
    assert run.info.status == "FINISHED"


def test_what_a_run_leaves_in_mlflow(killed_and_continued):
    home, _, _ = killed_and_continued
    client, run = only_run(home)
    assert run.data.params["train.steps"] == "200"
    assert run.data.params["model.num_features"] == "8"
    assert {
        "loss/pixel",
        "loss/adversarial",
        "gain_psnr_db",
        "gain_ssim",
        "steps",
        "validation/psnr_model_x2",
    } <= run.data.metrics.keys()
    assert run.data.metrics["loss/adversarial"] > 0
    assert len(run.data.tags["mlflow.source.git.commit"]) >= 5
    artifacts = [item.path for item in client.list_artifacts(run.info.run_id)]
    assert {"recipe.yaml", "run-report.json"} <= set(artifacts)
    pictures = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert any(path.endswith(".png") for path in pictures)
    version = client.get_model_version_by_alias("meta-srgan", "challenger")
    assert version.run_id == run.info.run_id


def test_the_curve_of_a_continued_run_has_each_point_with_one_value(killed_and_continued):
    home, _, _ = killed_and_continued
    client, run = only_run(home)
    values = {}
    for point in client.get_metric_history(run.info.run_id, "loss/pixel"):
        values.setdefault(point.step, set()).add(point.value)
    assert all(len(found) == 1 for found in values.values())
    resumed = client.get_metric_history(run.info.run_id, "run/resumed_at_step")[-1].step
    # What lay in the mailbox when the driver was killed is in the checkpoint's log alone.
    assert set(range(resumed + 10, 201, 10)) <= set(values) <= set(range(10, 201, 10))


def test_the_registered_bundle_is_that_of_the_best_checkpoint(killed_and_continued):
    home, _, _ = killed_and_continued
    client, run = only_run(home)
    history = client.get_metric_history(run.info.run_id, "gain_psnr_db")
    bundle = registered(home)
    assert bundle.about["metrics"]["val_psnr_gain"] == pytest.approx(max(point.value for point in history))


def test_two_workers_on_s3_compute_the_same_bits_as_one_process_on_a_folder(tmp_path, store_url, s3_url):
    bucket = open_store(f"{s3_url}/data")
    folder = Path(store_url.removeprefix("file://"))
    for path in (folder / "index.json", *folder.glob("*.tar")):
        bucket.put(path.name, path.read_bytes())
    settings = {"train.steps": 6, "train.pixel_only_steps": 3, "resources.num_workers": 2}
    output = train_to_end(tmp_path, bucket.url, {**settings, "storage.url": f"{s3_url}/runs"})
    name = output.partition("run ")[2].partition(",")[0]
    _, digest = newest_digest(RunCheckpoints(open_store(f"{s3_url}/runs"), name))
    assert digest == state_digest(train_locally(tmp_path, store_url, settings))


@pytest.mark.slow
def test_fast_workers_compute_the_same_up_to_rounding_and_train_the_discriminator_too(tmp_path, store_url):
    settings = {"train.reduction": "fast", "train.checkpoint_every_steps": 5, "train.pixel_only_steps": 5}
    train_to_end(tmp_path, store_url, {**settings, "train.steps": 7, "resources.num_workers": 2})
    reference = train_locally(tmp_path, store_url, {**settings, "train.steps": 5})
    checkpoints = checkpoints_of(tmp_path / "runs")
    last, before = checkpoints.entries()
    assert (last.step, before.step) == (7, 5)
    checkpoints.fetch(before, tmp_path / "fetched")
    trained, expected = (
        safetensors.torch.load_file(folder / "state.safetensors") for folder in (tmp_path / "fetched", reference)
    )
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-5, msg=name)


def another_run(home, store_url):
    """A bundle of another run, and its folder."""
    folder = train_locally(home, store_url, {"train.steps": 2, "train.pixel_only_steps": 2}) / "bundle"
    return load_bundle(folder, torch.device("cpu")), folder


@pytest.mark.slow
def test_a_run_can_start_from_the_weights_of_another(tmp_path, store_url):
    bundle, folder = another_run(tmp_path, store_url)
    one_short_step = {"train.steps": 1, "train.pixel_only_steps": 1, "optim.generator_lr": 1e-6}
    output = train_to_end(tmp_path, store_url, {**one_short_step, "resources.num_workers": 1, "init-from": folder})
    assert f"starting from the weights of {folder}, run local" in output
    before = dict(bundle.generator.named_parameters())
    for name, value in registered(tmp_path).generator.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=2e-6, msg=name)
    _, run = only_run(tmp_path)
    assert run.data.tags["metasr.initial_bundle"] == bundle.digest


def test_a_run_cannot_start_from_the_weights_of_another_network(tmp_path, store_url):
    _, folder = another_run(tmp_path, store_url)
    settings = {"train.steps": 1, "model.skip": "none", "init-from": folder}
    process = start_training(tmp_path, store_url, settings)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert f"error: cannot start from {folder}: its model.skip is bicubic, not none" in output


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_written(tmp_path, store_url):
    settings = {"train.steps": 1, "resources.num_workers": 8, "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db"}
    process = start_training(tmp_path, store_url, settings)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert output.startswith("error: resources.num_workers 8: a batch has 4 virtual shards to share.")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.slow
def test_an_error_that_no_restart_can_mend_is_one_line_at_once_and_marks_the_run_as_failed(tmp_path, store_url):
    settings = {"train.steps": 20, "optim.generator_lr": 1e30, "resources.num_workers": 1}
    process = start_training(tmp_path, store_url, settings)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "restart" not in output
    assert "error: the loss is" in output
    assert "Lower optim.generator_lr" in output
    _, run = only_run(tmp_path)
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_keeps_a_checkpoint_and_says_how_to_go_on(tmp_path, store_url, number):
    settings = {"train.steps": 10**6, "train.pixel_only_steps": 10**6, "resources.num_workers": 1}
    process = start_training(tmp_path, store_url, settings)
    try:
        line_with(process, "  loss ")
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 128 + number
    step = checkpoints_of(tmp_path / "runs").entries()[0].step
    assert step > 10
    assert output.splitlines()[-1].endswith(f"stopped at step {step}: run the same command again to continue")
    assert "Traceback" not in output
    _, run = only_run(tmp_path)
    assert run.info.status == "KILLED"


@pytest.mark.slow
def test_a_second_driver_is_refused_while_the_first_is_at_work(tmp_path, store_url):
    settings = {"train.steps": 10**6, "train.pixel_only_steps": 10**6, "resources.num_workers": 1}
    first = start_training(tmp_path, store_url, settings)
    try:
        line_with(first, "  loss ")
        second = start_training(tmp_path, store_url, settings)
        output, _ = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 2
        assert f"another driver is at work on it: process {first.pid}" in output
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
