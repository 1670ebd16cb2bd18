"""Small checkpoints, sealed like real ones; what is in a store; processes that are killed."""

import random
import signal
import subprocess
import sys
import threading

import boto3
import pytest

from cluster.store import RetryPolicy, open_store
from metasr.manifest import seal, unseal
from tests.patience import PATIENCE_S

# A store whose outages are over soon.
QUICK = RetryPolicy(attempts=2, first_pause_s=0.01, max_pause_s=0.05, connect_s=5, stall_s=5, deadline_s=20)


def save_sealed(folder, step, num_bytes=3000):
    """Write a checkpoint with a bundle in it into an empty folder; the same step, the same bytes."""
    bundle = folder / "bundle"
    bundle.mkdir()
    draw = random.Random(step)
    (folder / "state.safetensors").write_bytes(draw.randbytes(num_bytes))
    (bundle / "generator.safetensors").write_bytes(draw.randbytes(num_bytes // 3))
    (bundle / "README.md").write_text(f"step {step}\n")
    seal(bundle, "bundle", {"step": step})
    seal(folder, "checkpoint", {"step": step})


def make_sealed(folder, step, num_bytes=3000):
    """Return a new folder with the checkpoint of a step."""
    folder.mkdir(parents=True)
    save_sealed(folder, step, num_bytes)
    return folder


class Loader:
    """Loads a checkpoint as training would, and remembers its step."""

    step = None

    def __call__(self, folder):
        about = unseal(folder, "checkpoint")
        assert unseal(folder / "bundle", "bundle") == about
        self.step = about["step"]


def steps_of(checkpoints):
    """Return the steps of the checkpoints there are, the newest first."""
    return [kept.step for kept in checkpoints.entries()]


def names_in(store, run):
    """Return the names below a run, whether the ledger knows them or not."""
    if store.url.startswith("file:"):
        root = store._root / run
        found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        return {name for name in found if not name.rpartition("/")[2].startswith(".")}  # those are the store's own
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    listed = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/{run}/").get("Contents", [])
    return {entry["Key"].removeprefix(f"{prefix}/{run}/") for entry in listed}


def names_known(checkpoints):
    """Return the names below a run that its ledger says there are."""
    files = {f"{kept.folder}/{name}" for kept in checkpoints.entries() for name in kept.files}
    return files | {"checkpoints.json"}


def open_at(endpoint, url, policy=QUICK):
    """Open a store that is reached at an endpoint of its own, such as a proxy."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        store = open_store(url, policy)
        assert store._client  # made now, with this endpoint
        return store


def kill_after(script, arguments, seconds):
    """Run a script, kill it some time after its first line; return the last whole line it wrote."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline()]
    threading.Timer(seconds, process.send_signal, [signal.SIGKILL]).start()
    lines += process.stdout.read().splitlines(keepends=True)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    process.stdout.close()
    return [line for line in lines if line.endswith("\n")][-1].strip()  # the kill may tear the last one
