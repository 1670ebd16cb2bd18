"""Checkpoints that go up beside training: what was handed over is not lost, whatever happens to process and store."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
import uuid
from contextlib import contextmanager

import pytest

from cluster.checkpoints import RunCheckpoints, SupersededError, Uploader
from cluster.checkpoints import spool as spool_module
from cluster.checkpoints.spool import Spool
from cluster.checkpoints.uploader import MAX_PENDING
from cluster.store import open_store
from cluster.stream import ShardCache
from metasr.errors import StoreError, TrainingError
from tests.cluster.fault_proxy import Answer, FaultProxy, Refuse
from tests.cluster.sealed import (
    Loader,
    kill_after,
    make_sealed,
    names_in,
    names_known,
    open_at,
    save_sealed,
    steps_of,
)
from tests.patience import PATIENCE_S

RUN = "recipe-0123"


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def told():
    return []


@pytest.fixture
def uploaded():
    """What an uploader says of each checkpoint that went up: the checkpoint, seconds, and how many wait."""
    return []


@pytest.fixture
def start(spool, told, uploaded):
    """Start an uploader on a new claim, as a worker does."""
    started = []

    def start(store, keep=2):
        checkpoints = RunCheckpoints(store, RUN).claim(1)
        started.append(Uploader(checkpoints, spool, keep, told.append, lambda *said: uploaded.append(said)))
        return started[-1]

    yield start
    for uploader in started:
        uploader.close()


@pytest.fixture
def is_away():
    """Set while the store of `distant` is away."""
    return threading.Event()


@pytest.fixture
def distant(s3_url, is_away):
    """A store behind a proxy."""
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], lambda *_: Refuse() if is_away.is_set() else None) as proxy:
        yield open_at(proxy.url, f"{s3_url}/{uuid.uuid4().hex}")


def submit(uploader, step, score=0.0):
    uploader.submit(lambda folder: save_sealed(folder, step), step, score)


def waiting(spool):
    """Return the steps of the snapshots in the spool, whole or not."""
    return sorted(int(path.name.split("-")[1]) for path in spool.iterdir())


def test_snapshots_go_up_in_order_and_leave_the_disk(start, store, spool, told, uploaded):
    uploader = start(store, keep=3)
    for step, score in [(100, None), (200, 5.0), (300, float("nan"))]:
        submit(uploader, step, score)
    assert uploader.drain(PATIENCE_S)
    checkpoints = RunCheckpoints(store, RUN)
    assert steps_of(checkpoints) == [300, 200, 100]
    assert [kept.score for kept in checkpoints.entries()] == [None, 5.0, None]
    for step in (100, 200, 300):
        checkpoints.fetch_step(step, Loader())
    assert waiting(spool) == []
    assert told == []
    assert [kept for kept, _, _ in uploaded] == list(reversed(checkpoints.entries()))
    assert all(seconds > 0 for _, seconds, _ in uploaded)
    assert uploaded[-1][2] == 0


def test_training_does_not_wait_for_the_store(distant, is_away, start, spool, told):
    uploader = start(distant)
    is_away.set()
    submit(uploader, 100)
    assert waiting(spool) == [100]
    assert not uploader.drain(0.2)
    is_away.clear()
    assert uploader.drain(PATIENCE_S)
    assert waiting(spool) == []
    assert steps_of(RunCheckpoints(distant, RUN)) == [100]


def test_while_the_store_is_away_the_newest_and_the_best_wait_for_it(distant, is_away, start, spool, told):
    uploader = start(distant, keep=10)
    is_away.set()
    for step in range(1, 13):
        submit(uploader, step, score=9.0 if step == 3 else -step)
        assert len(waiting(spool)) <= MAX_PENDING
    assert {3, 12} <= set(waiting(spool))
    dropped = [line for line in told if line.startswith("dropping")]
    assert len(dropped) == 12 - MAX_PENDING
    while not any(line.startswith("checkpoints wait on the local disk") for line in told):
        assert not uploader.drain(0.5)
    is_away.clear()
    assert uploader.drain(PATIENCE_S)
    checkpoints = RunCheckpoints(distant, RUN)
    assert len(steps_of(checkpoints)) == MAX_PENDING
    assert steps_of(checkpoints)[0] == 12
    assert checkpoints.best().step == 3
    away, back = [line for line in told if line not in dropped]
    assert away.startswith("checkpoints wait on the local disk: ")
    assert back.startswith(f"{distant.url} is back after ")
    assert names_in(distant, RUN) == names_known(checkpoints)


def test_who_was_superseded_is_told_at_the_next_checkpoint(start, store, spool):
    uploader = start(store)
    submit(uploader, 100)
    assert uploader.drain(PATIENCE_S)
    RunCheckpoints(store, RUN).claim(1)
    submit(uploader, 200)
    with pytest.raises(SupersededError, match="claimed again"):
        uploader.drain(PATIENCE_S)
    with pytest.raises(SupersededError):
        submit(uploader, 300)
    assert steps_of(RunCheckpoints(store, RUN)) == [100]


def test_a_refusal_ends_training_with_its_reason(s3_url, start):
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    upstream = os.environ["AWS_ENDPOINT_URL"]
    with FaultProxy(upstream, lambda n, m, path: Answer(403, denied) if "/step-" in path else None) as proxy:
        uploader = start(open_at(proxy.url, f"{s3_url}/{uuid.uuid4().hex}"))
        submit(uploader, 100)
        with pytest.raises(StoreError, match="do not allow it"):
            uploader.drain(PATIENCE_S)


def test_a_snapshot_that_cannot_be_made_leaves_nothing(start, spool, store):
    uploader = start(store)

    def save(folder):
        save_sealed(folder, 100)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        uploader.submit(save, 100, 0.0)
    assert waiting(spool) == []
    submit(uploader, 200)
    assert uploader.drain(PATIENCE_S)
    assert steps_of(RunCheckpoints(store, RUN)) == [200]


def test_a_snapshot_that_another_process_has_removed_is_passed_over(distant, is_away, start, spool, told):
    uploader = start(distant)
    is_away.set()
    submit(uploader, 100)
    next(spool.iterdir()).rename(spool.with_name("removed"))  # at once: the uploader too removes what it finds torn
    submit(uploader, 200)
    is_away.clear()
    assert uploader.drain(PATIENCE_S)
    assert steps_of(RunCheckpoints(distant, RUN)) == [200]
    assert any(line.startswith("the checkpoint of step 100 was lost on the local disk: ") for line in told)


def test_a_snapshot_that_was_damaged_on_the_disk_is_passed_over(distant, is_away, start, spool, told):
    uploader = start(distant)
    is_away.set()
    submit(uploader, 100)
    damaged = next(spool.iterdir()) / "checkpoint" / "state.safetensors"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    submit(uploader, 200)
    is_away.clear()
    assert uploader.drain(PATIENCE_S)
    assert steps_of(RunCheckpoints(distant, RUN)) == [200]
    assert any(line.startswith("the checkpoint of step 100 was lost on the local disk: ") for line in told)


# What a killed process left


def leave(spool, step, name=None, score=0.0):
    """Put a finished snapshot into a spool, as a process that was killed does."""
    folder = spool / (name or f"step-{step:08}-00000000")
    make_sealed(folder / "checkpoint", step)
    (folder / "about.json").write_text(json.dumps({"step": step, "score": score}))
    return folder


def test_finished_snapshots_of_a_killed_process_go_up_first(start, store, spool, told):
    for step in (300, 200):
        leave(spool, step, score=step)
    uploader = start(store)
    submit(uploader, 400)
    assert uploader.drain(PATIENCE_S)
    checkpoints = RunCheckpoints(store, RUN)
    assert steps_of(checkpoints) == [400, 300]
    assert checkpoints.best().score == 300
    assert checkpoints.newest_good(Loader()).step == 400
    assert waiting(spool) == []
    assert [line for line in told if "earlier process left" in line] == told
    assert len(told) == 2


def test_what_the_run_is_past_is_removed(start, store, spool):
    uploader = start(store)
    submit(uploader, 300)
    uploader.drain(PATIENCE_S)
    kept = RunCheckpoints(store, RUN).entries()
    for step in (200, 300):
        leave(spool, step)
    assert start(store).drain(PATIENCE_S)
    assert RunCheckpoints(store, RUN).entries() == kept
    assert waiting(spool) == []


def test_a_snapshot_without_score_and_bundle_goes_up_too(start, store, spool):
    folder = leave(spool, 200, score=None)
    shutil.rmtree(folder / "checkpoint" / "bundle")
    assert start(store).drain(PATIENCE_S)
    (kept,) = RunCheckpoints(store, RUN).entries()
    assert (kept.step, kept.score, set(kept.files)) == (200, None, {"state.safetensors", "manifest.json"})


def test_torn_and_damaged_snapshots_are_removed(start, store, spool, told):
    leave(spool, 100)
    leave(spool, 200, name=".step-00000200-00000000.part")
    (leave(spool, 300) / "about.json").unlink()
    (leave(spool, 400) / "checkpoint" / "manifest.json").unlink()
    flipped = leave(spool, 500) / "checkpoint" / "state.safetensors"
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    flipped = leave(spool, 600) / "checkpoint" / "bundle" / "generator.safetensors"
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    assert start(store).drain(PATIENCE_S)
    assert steps_of(RunCheckpoints(store, RUN)) == [100]
    assert waiting(spool) == []
    assert len([line for line in told if line.startswith("removing a snapshot")]) == 5


TRAINING = """
import sys
from pathlib import Path
from cluster.checkpoints import RunCheckpoints, Uploader
from cluster.store import open_store
from tests.cluster.sealed import Loader, save_sealed

checkpoints = RunCheckpoints(open_store(sys.argv[1]), "killed").claim(1)
with Uploader(checkpoints, Path(sys.argv[2]), 2, lambda line: None) as uploader:
    uploader.drain()
    newest = checkpoints.newest_good(Loader())
    start = newest.step if newest else 0
    for step in range(start + 1, start + 1000):
        uploader.submit(lambda folder: save_sealed(folder, step), step, -step)
        print(start, step, flush=True)
"""


def test_a_snapshot_that_another_process_removes_while_it_is_adopted_is_none(spool, told, monkeypatch):
    vanishing, stays = leave(spool, 100), leave(spool, 200)
    read = spool_module._read

    def remove_first(folder):
        if folder == vanishing:
            shutil.rmtree(folder)
        return read(folder)

    monkeypatch.setattr(spool_module, "_read", remove_first)
    assert [snapshot.folder for snapshot in Spool(spool).adopt(told.append)] == [stays]
    assert told == []


def test_killed_at_any_moment_nothing_that_was_submitted_is_lost(store, spool):
    draw, last = random.Random(6), 0
    for _ in range(5):
        start, step = map(int, kill_after(TRAINING, [store.url, spool], draw.uniform(0, 0.2)).split())
        assert start - last in (0, 1)  # killed between the rename and the line
        last = step
    told = []
    checkpoints = RunCheckpoints(store, "killed").claim(1)
    with Uploader(checkpoints, spool, 2, told.append) as uploader:
        assert uploader.drain(PATIENCE_S)
    assert checkpoints.newest_good(Loader(), told.append).step - last in (0, 1)
    assert checkpoints.best().step == 1
    assert not [line for line in told if "bad" in line]
    assert waiting(spool) == []


# A full disk


@contextmanager
def small_disk(folder):
    """A disk of 1 MB at a folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_copies_of_shards_give_way_before_checkpoints_that_wait(distant, is_away, told, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        cache = ShardCache(disk / "cache", 10**9)
        for number in range(4):
            data = bytes([number]) * 100_000
            cache.get(hashlib.sha256(data).hexdigest(), lambda data=data: data)
        claimed = RunCheckpoints(distant, RUN).claim(1)
        is_away.set()
        with Uploader(claimed, disk / "spool", 10, told.append, make_room=cache.give_way) as uploader:
            for step in (1, 2, 3):
                uploader.submit(lambda folder, step=step: save_sealed(folder, step, 200_000), step, -step)
            assert waiting(disk / "spool") == [1, 2, 3]
        assert not [line for line in told if "dropping" in line]
        assert {path.suffix for path in (disk / "cache").iterdir()} == {".lock"}


def test_a_full_disk_gives_up_what_is_superseded_and_then_says_so(distant, is_away, start, spool):
    with small_disk(spool):
        uploader = start(distant, keep=10)
        is_away.set()

        def large(step, num_bytes=200_000):
            uploader.submit(lambda folder: save_sealed(folder, step, num_bytes), step, -step)

        large(1)
        large(2)
        large(3)
        assert waiting(spool) == [1, 2, 3]
        large(4)  # takes the place of one that is neither the best nor the newest
        assert waiting(spool) == [1, 3, 4]
        with pytest.raises(TrainingError, match=r"step 5 .*No space left on device.*Free some space"):
            large(5, 900_000)
        assert waiting(spool) == [1, 4]
        is_away.clear()
        assert uploader.drain(PATIENCE_S)
        checkpoints = RunCheckpoints(distant, RUN)
        assert steps_of(checkpoints) == [4, 1]
        for step in (1, 4):
            checkpoints.fetch_step(step, Loader())
        large(5)
        assert uploader.drain(PATIENCE_S)
        assert steps_of(checkpoints) == [5, 4, 1]
        uploader.close()


def test_a_full_store_keeps_nothing_partial_and_the_next_process_uploads_what_waits(start, spool, told, tmp_path):
    with small_disk(tmp_path / "runs") as disk:
        store = open_store(str(disk))
        uploader = start(store, keep=10)
        submit(uploader, 100)
        assert uploader.drain(PATIENCE_S)
        others = disk / "others"
        others.write_bytes(bytes(850_000))
        uploader.submit(lambda folder: save_sealed(folder, 200, 250_000), 200, 2.0)
        with pytest.raises(StoreError, match=r"No space left on device.*Free some space"):
            uploader.drain(PATIENCE_S)
        checkpoints = RunCheckpoints(store, RUN)
        assert names_in(store, RUN) == names_known(checkpoints)
        assert not list(disk.rglob(".*.part"))
        assert steps_of(checkpoints) == [100]
        assert waiting(spool) == [200]
        others.unlink()
        assert start(store, keep=10).drain(PATIENCE_S)
        assert steps_of(checkpoints) == [200, 100]
        checkpoints.fetch_step(200, Loader())
        assert names_in(store, RUN) == names_known(checkpoints)
        assert waiting(spool) == []
