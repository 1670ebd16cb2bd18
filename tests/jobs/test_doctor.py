"""`metasr doctor` as a person meets it: a line a check, what to do, an exit code, and no secrets."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

DOCTOR = Path(__file__).parents[2] / "jobs" / "doctor.py"
CANARY = "hush-canary-password"


@pytest.fixture
def doctor(tmp_path):
    """The command, in a process of its own with an empty home."""

    def call(*arguments, **environment):
        return subprocess.run(
            [sys.executable, DOCTOR, "--loss.perceptual", "0", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    return call


@pytest.fixture
def black_hole():
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_all_is_well_on_a_ray_of_its_own(doctor, store_url, tmp_path):
    home = f"{tmp_path}/metasr"
    done = doctor("--data.url", store_url, "--tracking.uri", f"sqlite:///{tmp_path}/db", "--storage.url", home)
    assert done.returncode == 0, done.stderr
    assert "ray.init() again" not in done.stderr
    states = {line[9:23].strip(): line[:9].strip() for line in done.stdout.splitlines() if line[:9].strip()}
    assert {states[name] for name in ("ray", "workers", "nodes", "versions", "disks")} == {"ok"}


@pytest.mark.slow
def test_services_that_never_answer_are_named_and_nothing_else_is_kept_from_its_check(
    doctor, store_url, tmp_path, black_hole
):
    done = doctor(
        *("--data.url", store_url, "--tracking.uri", f"http://user:{CANARY}@{black_hole}", "--storage.url", tmp_path),
        RAY_ADDRESS=black_hole,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=f"{CANARY}-token",
        MLFLOW_TRACKING_PASSWORD=CANARY,
    )
    assert done.returncode == 2, done.stderr
    assert CANARY not in done.stdout + done.stderr
    lines = {line[9:23].strip(): line for line in done.stdout.splitlines() if line[:9].strip()}
    assert lines["data"].startswith("ok ")
    assert lines["storage"].startswith("ok ")
    assert lines["mlflow"].startswith("PROBLEM ")
    assert lines["ray"].startswith("PROBLEM ")
    assert "the token here is not the cluster's" in lines["ray"]
    assert lines["nodes"].startswith("skipped ")
    assert "-> Check tracking.uri" in done.stdout
    assert "Traceback" not in done.stderr


def test_json_says_the_same(doctor):
    arguments = "--json", "--tracking.uri", "http://127.0.0.1:9", "--resources.num-workers", "8"
    done = doctor(*arguments, RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 2, done.stderr
    results = {result["name"]: result for result in json.loads(done.stdout)}
    assert results["settings"]["found"] == "resources.num_workers 8: a batch has 4 virtual shards to share"
    assert results["data"] == {
        "name": "data",
        "state": "problem",
        "found": "data.url is not set: there is nothing to train on",
        "fix": "Give --data.url, see `metasr prepare`",
    }
    assert results["shards"]["state"] == "skipped"
    assert results["storage"]["state"] == "ok"
    assert results["ray"]["found"] == "Ray at 127.0.0.1:9: Connection refused"


def test_a_setting_that_does_not_exist_is_one_error(doctor):
    done = doctor("--resources.num-worker", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown argument --resources.num-worker: did you mean")
