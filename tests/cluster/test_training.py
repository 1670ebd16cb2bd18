"""Training through Ray Train, as a person runs it: a process of its own, killed and started again."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient

from cluster.config import JobConfig, TrackingConfig
from cluster.recipes import Layer, resolve
from cluster.registry import Registry
from cluster.store import open_store
from cluster.stream import ShardCrops, held_out_slices, read_index
from metasr.context import LocalContext
from metasr.identity import RunIdentity
from metasr.inference.bundle import load_bundle
from metasr.training.loop import fit

ROOT = Path(__file__).parents[2]
RAY = Path(sysconfig.get_path("scripts")) / "ray"
TINY = {
    "model.num_features": 8,
    "model.num_blocks": 1,
    "data.patch_px": 20,
    "train.scale_max": 2.0,
    "train.batch_size": 2,
    "train.log_every_steps": 10,
    "train.keep_checkpoints": 2,
    "loss.perceptual": 0,
    "eval.scales": [1.5, 2.0],
    "eval.validation_slices": 1,
}


def flags(values):
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def places(home):
    return {
        "storage.url": home / "runs",
        "storage.cache": home / "cache",
        "tracking.uri": f"sqlite:///{home}/mlflow.db",
        "tracking.artifacts": home / "artifacts",
    }


def arguments_of(home, store_url, settings):
    recipe = home / "tiny.yaml"
    recipe.write_text("train:\n  steps: 1\n")
    return ["--recipe", recipe, *flags({"data.url": store_url, **places(home), **TINY, **settings})]


def start_training(home, store_url, settings):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, ROOT / "jobs" / "train.py", *arguments_of(home, store_url, settings)],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would all that they start, this test among them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def train_to_end(home, store_url, settings):
    process = start_training(home, store_url, settings)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def train_locally(home, store_url, settings):
    """Train the same without Ray: one process, no interruption."""
    config = resolve(JobConfig, [Layer("test", {**TINY, **settings})]).config
    store = open_store(store_url)
    index = read_index(store)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(
            config,
            ShardCrops(store, index),
            (index.mean, index.std),
            held_out_slices(store, index, 1),
            RunIdentity("local", "", store_url, index.digest()),
            LocalContext(home / "local"),
        )
    finally:
        torch.set_num_threads(threads)


def newest_weights(home):
    """The generator in the checkpoint with the highest step, whichever run wrote it."""
    files = (home / "runs").rglob("state.safetensors")
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    stored = safetensors.torch.load_file(newest)
    return {name.removeprefix("generator/"): v for name, v in stored.items() if name.startswith("generator/")}


def only_run(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len(runs) == 1
    return client, runs[0]


def registered(home):
    """The newest registered bundle."""
    tracking = TrackingConfig(uri=f"sqlite:///{home}/mlflow.db", artifacts=str(home / "artifacts"))
    with tempfile.TemporaryDirectory() as download:
        return load_bundle(Registry(tracking).locate("challenger", Path(download)).folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def killed_and_continued(tmp_path_factory, store_url):
    """A run of 400 steps whose driver gets SIGKILL after its first checkpoint, and the same command again."""
    home = tmp_path_factory.mktemp("killed")
    settings = {
        "train.steps": 400,
        "train.checkpoint_every_steps": 50,
        "train.pixel_only_steps": 360,
        "resources.num_workers": 1,
    }
    process = start_training(home, store_url, settings)
    deadline = time.monotonic() + 200
    while not list((home / "runs").rglob("checkpoint_*/manifest.json")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return home, settings, train_to_end(home, store_url, settings)


def test_the_same_command_continues_after_the_driver_was_killed(killed_and_continued):
    home, _, output = killed_and_continued
    client, run = only_run(home)
    resumed = [point.step for point in client.get_metric_history(run.info.run_id, "resumed_at_step")]
    assert len(resumed) == 1
    assert 0 < resumed[0] < 400
    assert resumed[0] % 50 == 0
    assert "resumed" in output
    assert run.info.status == "FINISHED"


def test_a_continued_run_ends_with_the_weights_of_an_uninterrupted_one(killed_and_continued, store_url):
    home, settings, _ = killed_and_continued
    reference = train_locally(home, store_url, settings).generator.state_dict()
    for name, value in newest_weights(home).items():
        torch.testing.assert_close(value, reference[name], rtol=0, atol=0, msg=name)


def test_a_finished_run_is_left_as_it_is(killed_and_continued, store_url):
    home, settings, _ = killed_and_continued
    assert "already finished: version 1" in train_to_end(home, store_url, settings)
    client, _ = only_run(home)
    assert len(client.search_model_versions("name = 'meta-srgan'")) == 1


def test_what_a_run_leaves_in_mlflow(killed_and_continued):
    home, _, _ = killed_and_continued
    client, run = only_run(home)
    assert run.data.params["train.steps"] == "400"
    assert run.data.params["model.num_features"] == "8"
    assert {"loss_pixel", "loss_adversarial", "val_psnr_gain", "val_psnr_model_x2"} <= run.data.metrics.keys()
    assert run.data.metrics["loss_adversarial"] > 0
    assert len(run.data.tags["mlflow.source.git.commit"]) >= 5
    artifacts = [item.path for item in client.list_artifacts(run.info.run_id)]
    assert "recipe.yaml" in artifacts
    pictures = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert any(path.endswith(".png") for path in pictures)
    version = client.get_model_version_by_alias("meta-srgan", "challenger")
    assert version.run_id == run.info.run_id


def test_the_registered_bundle_is_that_of_the_best_checkpoint(killed_and_continued):
    home, _, _ = killed_and_continued
    client, run = only_run(home)
    history = client.get_metric_history(run.info.run_id, "val_psnr_gain")
    bundle = registered(home)
    assert bundle.about["metrics"]["val_psnr_gain"] == pytest.approx(max(point.value for point in history))


def test_two_workers_on_s3_compute_the_same_as_one_process_on_a_folder(tmp_path, store_url, s3_url):
    bucket = open_store(f"{s3_url}/data")
    folder = Path(store_url.removeprefix("file://"))
    for path in (folder / "index.json", *folder.glob("*.tar")):
        bucket.put(path.name, path.read_bytes())
    settings = {"train.steps": 6, "train.pixel_only_steps": 6, "resources.num_workers": 2}
    train_to_end(tmp_path, bucket.url, {**settings, "storage.url": f"{s3_url}/runs"})
    reference = train_locally(tmp_path, store_url, settings).generator.state_dict()
    trained = registered(tmp_path).generator.state_dict()
    assert trained.keys() == reference.keys()
    for name, value in trained.items():
        torch.testing.assert_close(value, reference[name], rtol=1e-3, atol=1e-5, msg=name)


def another_run(home, store_url):
    """A bundle of another run, and its folder."""
    train_locally(home, store_url, {"train.steps": 2, "train.pixel_only_steps": 2})
    folder = home / "local" / "step-2" / "bundle"
    return load_bundle(folder, torch.device("cpu")), folder


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
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"error: cannot start from {folder}: its model.skip is bicubic, not none" in output


def test_an_error_in_a_worker_is_one_line_and_marks_the_run_as_failed(tmp_path, store_url):
    settings = {
        "train.steps": 20,
        "optim.generator_lr": 1e30,
        "resources.num_workers": 1,
        "resources.max_failures": 0,
    }
    process = start_training(tmp_path, store_url, settings)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "error: the loss is" in output
    assert "Lower optim.generator_lr" in output
    _, run = only_run(tmp_path)
    assert run.info.status == "FAILED"


def test_ctrl_c_ends_soon_and_says_how_to_go_on(tmp_path, store_url):
    settings = {"train.steps": 10**6, "train.pixel_only_steps": 10**6, "resources.num_workers": 1}
    process = start_training(tmp_path, store_url, settings)
    try:
        assert any("loss" in line and line.startswith("step") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 130
    assert output.splitlines()[-1] == "interrupted: run the same command again to continue"
    assert "Traceback" not in output
    _, run = only_run(tmp_path)
    assert run.info.status == "KILLED"


# On a cluster that is already there


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of one node that asks for a token: its address, and the environment of those who have it."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie in it, and their paths must be
    port, token = free_port(), secrets.token_hex(16)
    path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"  # a job runs in the environment of the cluster
    environment = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    ports = [f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--num-cpus=3",
        f"--temp-dir={folder}",
        *ports,
    ]
    address = f"http://127.0.0.1:{port}"
    with Path(folder, "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
        deadline = time.monotonic() + 60
        while not answers(request):
            assert head.poll() is None, Path(folder, "head.log").read_text()
            assert time.monotonic() < deadline, "the cluster did not start"
            time.sleep(0.1)
        yield address, environment
    finally:
        head.terminate()  # and with it all that it has started
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def answers(request):
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def submit(cluster, *arguments, **environment):
    address, allowed = cluster
    return subprocess.run(
        [
            RAY,
            "job",
            "submit",
            "--address",
            address,
            "--working-dir",
            ".",
            "--",
            "python",
            "jobs/train.py",
            *arguments,
        ],
        cwd=ROOT,
        env={**allowed, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_submitted_job_trains_on_the_cluster(cluster, tmp_path, store_url):
    settings = {"train.steps": 4, "train.pixel_only_steps": 3, "resources.num_workers": 2}
    arguments = map(str, arguments_of(tmp_path, store_url, settings))
    outcome = submit(cluster, *arguments, RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES="")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "version 1 of meta-srgan, the challenger" in outcome.stdout
    _, run = only_run(tmp_path)
    assert run.info.status == "FINISHED"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.data.tags["metasr.code_version"] == commit.stdout.strip()


def test_a_submitted_job_that_fails_says_why_and_fails(cluster, tmp_path):
    outcome = submit(cluster, "--recipe", "smoke", "--data.url", f"{tmp_path}/nothing")
    assert outcome.returncode != 0
    assert "failed with exit code 2" in outcome.stdout
    assert "the folder does not exist" in outcome.stdout
    assert "Traceback" not in outcome.stdout


def test_the_cluster_takes_no_job_without_its_token(cluster, tmp_path):
    address, environment = cluster
    stranger = address, {**environment, "RAY_AUTH_TOKEN": "0" * 32}
    outcome = submit(stranger, "--recipe", "smoke")
    assert outcome.returncode != 0
    assert "jobs/train.py" not in outcome.stdout
