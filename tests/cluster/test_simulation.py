"""A simulated run of a few workers: whatever happens to it, what must hold does."""

import json
import subprocess
import sys

import pytest

from tests.cluster.training import ROOT
from tests.patience import PATIENCE_S
from tests.simulation.schedule import WEIGHTS, machines_after, schedule


@pytest.mark.slow
def test_a_simulated_run_keeps_what_must_hold_through_failures_and_another_driver(database, tmp_path):
    options = ["--workers=8", "--epochs=4", "--seed=1", "--store=folder", f"--tracking={database}"]
    command = [sys.executable, "-m", "tests.simulation", *options, f"--json={tmp_path}/found.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["8"]
    assert all(found["held"].values())
    assert {one.kind for one in schedule(1, 128)} == set(WEIGHTS)  # so all of it has happened
    assert found["seen"]["fences"] == [1, 2]
    assert found["seen"]["rivals_refused"] == 1


@pytest.mark.parametrize("num_workers", [8, 64, 512])
def test_a_schedule_follows_from_its_seed_and_leaves_machines(num_workers):
    found = schedule(3, 640)
    assert found == schedule(3, 640)
    assert found != schedule(4, 640)
    counts = [len(machines_after(found[:number], num_workers)) for number in range(len(found) + 1)]
    assert min(counts) >= 1
    assert max(counts) == counts[0] == max(2, num_workers // 8)
    assert min(counts) < counts[0]
