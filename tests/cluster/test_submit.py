"""Training on a cluster that is already there, by `ray job submit`; what Prometheus finds there."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster.watch.exported import METRICS, name_in_prometheus
from tests.cluster.ray_nodes import RAY, ray_node
from tests.cluster.training import ROOT, arguments_of, only_run, start_training
from tests.patience import PATIENCE_S


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def folder():
    """The folder of the cluster."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie in it, and their paths must be
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head_port():
    """The port at which processes join the cluster."""
    return free_port()


@pytest.fixture(scope="module")
def cluster(folder, head_port):
    """A Ray cluster of one node that asks for a token: its address, and the environment of those who have it."""
    port, token = free_port(), secrets.token_hex(16)
    path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"  # a job runs in the environment of the cluster
    environment = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    ports = [f"--port={head_port}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
    address = f"http://127.0.0.1:{port}"
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    with ray_node(environment, "--head", "--num-cpus=3", f"--temp-dir={folder}", *ports) as head:
        deadline = time.monotonic() + PATIENCE_S
        while not answers(request):
            assert head.poll() is None, "the cluster has ended"
            assert time.monotonic() < deadline, "the cluster did not start"
            time.sleep(0.1)
        yield address, environment


def answers(request):
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def submit(cluster, *arguments, **environment):
    address, allowed = cluster
    done = _submit(address, {**allowed, **environment}, arguments)
    if "No available agent" in done.stdout + done.stderr:  # a Ray that has just started, on a slow machine
        done = _submit(address, {**allowed, **environment}, arguments)
    return done


def _submit(address, environment, arguments):
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
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def scraped(folder):
    """Return what Prometheus would find: the names of metrics that have a value."""
    names = set()
    for target in json.loads(Path(folder, "prom_metrics_service_discovery.json").read_text())[0]["targets"]:
        try:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            continue  # slow, or not there yet
        names.update(line.partition("{")[0] for line in lines if "{" in line and not line.startswith("#"))
    return names


def test_a_submitted_job_trains_on_the_cluster(cluster, tmp_path, store_url):
    settings = {"train.steps": 4, "train.pixel_only_steps": 3, "resources.num_workers": 1}
    arguments = map(str, arguments_of(tmp_path, store_url, settings))
    outcome = submit(cluster, *arguments, RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES="")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "its best generator is version 1 of meta-srgan" in outcome.stdout
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


@pytest.mark.slow
def test_prometheus_finds_what_a_training_exports_while_it_is_at_work(
    cluster, folder, head_port, tmp_path, store_url
):
    _, environment = cluster
    joining = {name: environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    settings = {"train.steps": 100_000, "train.checkpoint_every_steps": 20, "resources.num_workers": 1}
    process = start_training(tmp_path, store_url, settings, RAY_ADDRESS=f"127.0.0.1:{head_port}", **joining)
    only_in_trouble = {"metasr_driver_ended_timestamp_seconds", *(one for one in METRICS if METRICS[one].grows)}
    of_runs = {one for one in METRICS if "run" in METRICS[one].labels}
    wanted, deadline = {name_in_prometheus(one) for one in of_runs - only_in_trouble}, time.monotonic() + PATIENCE_S
    try:
        while missing := wanted - scraped(folder):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, missing
            time.sleep(1)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
