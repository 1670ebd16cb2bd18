"""Training in a bad environment: stores, networks, disks and an MLflow that fail, and numbers that do.

Each fault is a real one, and what comes out has the SHA-256 of a training that nothing happened to.
"""

import os
import re
import signal
import subprocess
import threading
import uuid
from collections import Counter
from contextlib import contextmanager

import pytest
from safetensors.torch import load_file

from cluster.checkpoints import RunCheckpoints
from cluster.config import PrepareConfig, TrackingConfig
from cluster.outbox.sync import sync
from cluster.prepare import prepare
from cluster.shards import INDEX
from cluster.store import open_store
from cluster.stream import read_index
from tests.chaos.killer import train_workers
from tests.chaos.runs import report_of
from tests.cluster.fault_proxy import Answer, CutShort, FaultProxy, Flip, Refuse, Reset, Stall
from tests.cluster.tracked import MlflowServer, closed_port
from tests.cluster.training import (
    checkpoints_of,
    line_with,
    newest_digest,
    only_run,
    registered,
    start_training,
    state_digest,
    train_locally,
)
from tests.patience import PATIENCE_S

STEPS, EVERY = 600, 60
SETTINGS = {
    "train.steps": STEPS,
    "train.checkpoint_every_steps": EVERY,
    "train.pixel_only_steps": STEPS - 10,
    "resources.num_workers": 1,
}
NOTHING_LEFT = ("", 0)  # no failure, no run that another sends
PREPARED = PrepareConfig(modality="t1ce", crop_px=40, shard_mb=0.01)


@pytest.fixture(scope="module")
def shards_url(subjects_folder, tmp_path_factory):
    """A folder store with several training shards."""
    store = open_store(str(tmp_path_factory.mktemp("shards")))
    prepare(subjects_folder, store, PREPARED, tell=lambda line: None)
    return store.url


@pytest.fixture(scope="module")
def bucket_url(shards_url, s3_url):
    """The same in a bucket."""
    folder, bucket = open_store(shards_url), open_store(f"{s3_url}/data-{uuid.uuid4().hex}")
    for name in [INDEX, *(shard.name for shard in read_index(folder).shards)]:
        bucket.put(name, folder.get(name))
    return bucket.url


@pytest.fixture(scope="module")
def undisturbed(shards_url, tmp_path_factory):
    """Step and digest of a training that nothing happens to."""
    return STEPS, state_digest(train_locally(tmp_path_factory.mktemp("undisturbed"), shards_url, SETTINGS))


@pytest.fixture
def begin(home, shards_url):
    """Start a training in this test's folder, which ends with the test."""
    started = []

    def start(settings, data_url=shards_url, **environment):
        started.append(start_training(home, data_url, SETTINGS | settings, **environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def listen(process, *texts):
    """Listen to a training until it has said each text, in any order."""
    missing, heard = set(texts), []
    for line in process.stdout:
        heard.append(line)
        missing -= {text for text in missing if text in line}
        if not missing:
            return
    raise AssertionError("".join(heard))


def ended(process, code=0):
    """Wait for the end of a training; return what it said since it was last listened to."""
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, output
    return output


# The store


@pytest.fixture
def storage(s3_url, home):
    """A URL for the runs of this test."""
    return f"{s3_url}/{home.name}"


def run_in(storage, output):
    return RunCheckpoints(open_store(storage), re.search(r"run (\S+), code", output)[1])


def in_bursts(faults, length=3, quiet=5):
    """Plan bursts of each fault in turn: of what is asked of data and of checkpoints, each on its own.

    The first request of a worker for a shard gets no answer at all; the one before is from the driver's checks.
    """
    asked = Counter()

    def plan(number, method, path):
        if "/train-" in path:
            asked["shards"] += 1
            if asked["shards"] == 2:
                return Stall(1000)
        area = "data" if "/data-" in path else "runs"
        burst, place = divmod(asked[area], length + quiet)
        asked[area] += 1
        return faults[burst % len(faults)] if place < length else None

    return plan


def test_a_store_that_fails_in_every_way_changes_no_bit_and_every_retry_is_counted(
    begin, home, bucket_url, storage, undisturbed
):
    faults = [Answer(503), CutShort(1000), Refuse(), Flip(2000), Reset(), Answer(500), Reset(1000)]
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], in_bursts(faults)) as proxy:
        output = ended(begin({"storage.url": storage}, bucket_url, AWS_ENDPOINT_URL=proxy.url))
    for area in ("/data-", home.name):
        assert {type(seen.fault) for seen in proxy.seen if area in seen.path} >= {Answer, Refuse}
    assert newest_digest(run_in(storage, output)) == undisturbed
    retries = report_of(home)["retries"]
    assert retries.keys() >= {"stall", "server error", "connection"}
    assert sum(retries.values()) > 10


@pytest.fixture
def outage(s3_url):
    """The way to a store, closed while `away` is set."""
    away = threading.Event()
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], lambda *_: Refuse() if away.is_set() else None) as proxy:
        proxy.away = away
        yield proxy


def test_while_the_store_is_away_training_goes_on_and_checkpoints_go_up_in_order_when_it_is_back(
    begin, bucket_url, storage, undisturbed, outage
):
    process = begin({"storage.url": storage}, bucket_url, AWS_ENDPOINT_URL=outage.url)
    first = line_with(process, ", code")
    line_with(process, "checkpoint uploaded")
    outage.away.set()
    listen(process, "checkpoints wait on the local disk", f"step {STEPS}/{STEPS}  validation")
    outage.away.clear()
    output = ended(process)
    assert " is back after " in output
    steps = [int(step) for step in re.findall(r"step (\d+)/\d+  checkpoint uploaded", output)]
    assert len(steps) > 1
    assert steps == sorted(steps)
    assert newest_digest(run_in(storage, first)) == undisturbed


def test_a_worker_that_comes_back_while_the_store_is_away_waits_says_so_and_goes_on_alone(
    begin, bucket_url, storage, undisturbed, outage
):
    process = begin({"storage.url": storage}, bucket_url, AWS_ENDPOINT_URL=outage.url)
    first = line_with(process, ", code")
    line_with(process, "checkpoint uploaded")
    outage.away.set()
    (worker,) = train_workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    line_with(process, "waiting for")
    outage.away.clear()
    output = ended(process)
    assert "restart 1: 1 worker ready" in output
    assert "restart 2" not in output
    assert "resuming from the checkpoint of this step" in output
    assert newest_digest(run_in(storage, first)) == undisturbed


def test_of_a_flipped_bit_in_the_newest_checkpoint_the_one_before_is_used(begin, home, undisturbed):
    process = begin({})
    for _ in range(2):
        line_with(process, "checkpoint uploaded")
    process.send_signal(signal.SIGTERM)
    ended(process, 128 + signal.SIGTERM)
    newest, before, *_ = checkpoints_of(home / "runs").entries()
    (state,) = (home / "runs").glob(f"*/{newest.folder}/state.safetensors")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    output = ended(begin({}))
    assert f"the checkpoint of step {newest.step} is bad, trying the one before" in output
    assert f"step {before.step}/{STEPS}  resuming from the checkpoint of this step" in output
    (bad,) = report_of(home)["bad_checkpoints"]
    assert bad.startswith(f"step {newest.step} (its file state.safetensors: ")
    assert newest_digest(checkpoints_of(home / "runs")) == undisturbed


def test_what_is_prepared_into_the_store_of_a_run_that_has_begun_changes_no_bit_of_it(
    begin, home, subjects_folder, undisturbed
):
    store = open_store(str(home / "shards"))
    prepare(subjects_folder, store, PREPARED, tell=lambda line: None)
    process = begin({}, store.url)
    line_with(process, "checkpoint uploaded")
    prepare(subjects_folder, store, PREPARED.model_copy(update={"slice_step": 2}), tell=lambda line: None)
    (worker,) = train_workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    assert "restart 1: 1 worker ready" in ended(process)
    assert newest_digest(checkpoints_of(home / "runs")) == undisturbed


# MLflow


def assert_all_is_in_mlflow(client, run):
    history = client.get_metric_history(run.info.run_id, "loss/pixel")
    assert [point.step for point in history] == list(range(10, STEPS + 1, 10))
    looks = client.get_metric_history(run.info.run_id, "gain_psnr_db")
    assert [point.step for point in looks] == list(range(EVERY, STEPS + 1, EVERY))
    pictures = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert len([path for path in pictures if path.endswith(".png")]) == STEPS // EVERY
    assert run.info.status == "FINISHED"
    (version,) = client.search_model_versions("name = 'meta-srgan'")
    assert version.run_id == run.info.run_id


def test_after_a_run_without_mlflow_sync_sends_everything_once(begin, home, undisturbed):
    output = ended(begin({"tracking.uri": f"http://127.0.0.1:{closed_port()}"}), 3)
    assert f"`metasr sync --tracking.spool {home}/records` there sends them" in output
    assert newest_digest(checkpoints_of(home / "runs")) == undisturbed
    database = TrackingConfig(uri=f"sqlite:///{home}/mlflow.db", spool=str(home / "records"))
    for _ in range(2):
        assert sync(database, print, uri_is_given=True)[:2] == NOTHING_LEFT
    assert_all_is_in_mlflow(*only_run(home))
    assert registered(home).about["step"] > 0


def test_mlflow_may_be_killed_and_started_again_while_a_run_is_at_work(begin, home, undisturbed):
    folder = home / "server"
    folder.mkdir()
    server = MlflowServer(folder)
    try:
        process = begin({"tracking.uri": server.uri})
        line_with(process, "checkpoint uploaded")
        server.kill()
        line_with(process, "checkpoint uploaded")
        server.start()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (0, 3)
        tracking = TrackingConfig(uri=server.uri, spool=str(home / "records"))
        assert sync(tracking, print, uri_is_given=True)[:2] == NOTHING_LEFT  # where it took long to start
        assert_all_is_in_mlflow(*only_run(folder, server.uri))
    finally:
        server.kill()
    assert newest_digest(checkpoints_of(home / "runs")) == undisturbed


# Disks


@contextmanager
def small_disk(folder, megabytes=160):
    """A disk at a folder with room for some checkpoints of 21 MB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Take all the room there is on a disk, also what was given back since the last time."""
    with (folder / "others").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def ended_while_filling(disk, process, code):
    """Fill a disk until a process has ended, with this code; return what it printed."""
    outputs = []
    reader = threading.Thread(target=lambda: outputs.append(ended(process, code)))
    reader.start()
    while reader.is_alive():
        fill(disk)
        reader.join(0.02)
    (output,) = outputs
    return output


def test_a_full_disk_under_the_checkpoints_is_one_error_and_the_same_command_goes_on(begin, home, undisturbed):
    with small_disk(home / "spool") as disk:
        process = begin({})
        line_with(process, "checkpoint uploaded")
        output = ended_while_filling(disk, process, 1)
        assert re.search(r"^error: cannot write the checkpoint of step \d+ to .*No space left", output, re.MULTILINE)
        assert "Traceback" not in output
        assert not list(disk.glob("*/.*"))
        (disk / "others").unlink()
        output = ended(begin({}))
    assert "resuming from the checkpoint of this step" in output
    assert "bad" not in output
    assert newest_digest(checkpoints_of(home / "runs")) == undisturbed


def test_a_full_disk_under_the_store_leaves_nothing_partial_and_the_same_command_uses_what_waits(
    begin, home, undisturbed
):
    with small_disk(home / "runs", 400) as disk:
        process = begin({})
        line_with(process, "checkpoint uploaded")
        output = ended_while_filling(disk, process, 2)
        assert re.search(r"^error: cannot .* No space left on device.*Free some space", output, re.MULTILINE)
        assert "Traceback" not in output
        (waits,) = (home / "spool").glob("*/step-*")
        (disk / "others").unlink()
        stored = RunCheckpoints(open_store(str(disk)), waits.parent.name)
        known = {f"{kept.folder}/{name}" for kept in stored.entries() for name in kept.files}
        assert {str(path.relative_to(disk / waits.parent.name)) for path in disk.rglob("step-*/**/*.*")} == known
        output = ended(begin({}))
        step = int(waits.name.split("-")[1])
        assert f"uploading the checkpoint of step {step}, which an earlier process left" in output
        assert f"step {step}/{STEPS}  resuming from the checkpoint of this step" in output
        assert newest_digest(checkpoints_of(disk)) == undisturbed


def test_with_a_full_disk_under_the_copies_training_goes_on_without_them(begin, home, bucket_url, undisturbed):
    with small_disk(home / "cache") as disk:
        fill(disk)
        output = ended(begin({}, bucket_url))
    assert "going on without copies" in output
    assert newest_digest(checkpoints_of(home / "runs")) == undisturbed


def test_copies_give_way_to_checkpoints_on_a_disk_that_both_share(begin, home, bucket_url, undisturbed):
    with small_disk(home / "disk") as disk:
        process = begin({"storage.spool": disk / "spool", "storage.cache": disk / "cache"}, bucket_url)
        line_with(process, "checkpoint uploaded")
        for number in range(10):
            (disk / "cache" / f"{number:064}").write_bytes(bytes(10**7))
        fill(disk)
        assert "of copies in" in ended(process)
    assert newest_digest(checkpoints_of(home / "runs")) == undisturbed


# Numbers


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_weights_that_are_not_finite_are_kept_nowhere(begin, home, on_nan):
    settings = {"train.steps": 12, "train.checkpoint_every_steps": 1, "optim.generator_lr": 1e30}
    output = ended(begin({**settings, "train.on_nan": on_nan}), 1)
    assert "the loss is" in output
    assert ("update skipped" in output) == (on_nan == "skip")
    states = list(home.rglob("*.safetensors"))
    assert states
    for path in states:
        for name, tensor in load_file(path).items():
            assert tensor.isfinite().all(), f"{path} {name}"
