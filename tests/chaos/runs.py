"""Runs that something happens to, and what they must come to: the bits of one that nothing happened to."""

import json
import subprocess
from contextlib import contextmanager

from tests.cluster.training import checkpoints_of, newest_digest, start_training
from tests.patience import PATIENCE_S

EVERY = 25
SETTINGS = {
    "train.steps": 400,
    "train.checkpoint_every_steps": EVERY,
    "train.pixel_only_steps": 380,
    "train.virtual_shards": 4,
    "resources.num_workers": 2,
}
STARTING, RESUMING, UPLOADED = "  starting", "resuming from", "checkpoint uploaded"


@contextmanager
def running(home, store_url, settings, **environment):
    """Start a run on the cluster that the environment names, or here; end it with the block, if it has not ended."""
    process = start_training(home, store_url, settings, **environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process):
    """Wait for the end of a run that goes well, and return the rest of its output."""
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(output) from None
    assert process.returncode == 0, output
    return output


def report_of(home):
    """Return the run's own report."""
    (report,) = (home / "artifacts").rglob("run-report.json")
    return json.loads(report.read_text())


def check_restarts(report, at_least):
    """Assert that each restart came to a new step, and repeated no more than the steps since a checkpoint."""
    restarts = report["restarts"]
    assert len(restarts) >= at_least
    for restart in restarts:
        assert restart["resumed_step"] is None or restart["lost_at_step"] - restart["resumed_step"] <= EVERY
        assert 0 < restart["rto_s"] < 200
    print("RTO s:", ", ".join(f"{restart['rto_s']:.1f}" for restart in restarts))


def digest_of(home):
    """Return step and digest of a run's newest checkpoint."""
    return newest_digest(checkpoints_of(home / "runs"))
