"""Crops streamed from shards: the same as from memory, read ahead of need, no more at hand than is needed."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.config import StorageConfig
from cluster.shards import INDEX
from cluster.store import FolderStore, open_store
from cluster.stream import ShardCrops, held_out_slices, read_index, shard_cache, validation_slices
from cluster.stream.ahead import Ahead
from metasr.data.crops import MemoryCrops
from metasr.data.order import SampleOrder
from metasr.errors import DataError, StoreError
from tests.cluster.patients import OPTIONS, run_prepare

SHARD_MB = 0.02  # five crops
IN_MEMORY = {"keep_bytes": 1e9}
BY_WINDOW = {"keep_bytes": 0}
DEADLINE_S = 60


@pytest.fixture(scope="module")
def folder(volumes, tmp_path_factory):
    """A prepared store with training shards of 5, 5, 5, 5 and 4 crops."""
    folder = tmp_path_factory.mktemp("shards")
    run_prepare(volumes, open_store(str(folder)), OPTIONS.model_copy(update={"shard_mb": SHARD_MB}))
    return folder


@pytest.fixture
def index(folder):
    return read_index(open_store(str(folder)))


def crops_of(folder, index):
    """All training crops in the order of the index, read with nothing of ours."""
    images = []
    for shard in index.shards:
        if shard.split == "train":
            with tarfile.open(folder / shard.name) as tar:
                files = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".npy")]
            images += [np.load(io.BytesIO(file)) for file in files]
    return torch.from_numpy(np.stack(images))[:, None]


class WatchedStore(FolderStore):
    """A folder that knows what was asked for, and how many of the bytes it gave are still in memory."""

    def __init__(self, root):
        super().__init__(root)
        self.asked, self.alive, self.most_alive = [], 0, 0
        self._lock = threading.Lock()

    def get(self, key, **expected):
        self.asked.append(key)
        data = super().get(key, **expected)
        with self._lock:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        watched = WatchedBytes(data)
        watched.store = self
        return watched

    def forget(self):
        with self._lock:
            self.alive -= 1


class WatchedBytes(bytes):
    def __del__(self):
        self.store.forget()


class GatedStore(FolderStore):
    """A folder that gives a shard when its gate is opened."""

    def __init__(self, root):
        super().__init__(root)
        names = [path.name for path in root.iterdir()]
        self.asked, self.gates = ({name: threading.Event() for name in names} for _ in range(2))

    def get(self, key, **expected):
        self.asked[key].set()
        assert self.gates[key].wait(DEADLINE_S)
        return super().get(key, **expected)


def names_in_order(index, order, number):
    names = [shard.name for shard in index.shards if shard.split == "train"]
    return [names[shard] for window in islice(order.windows(0), number) for shard in window.shards]


# The same as from memory


@pytest.mark.parametrize("memory", [IN_MEMORY, BY_WINDOW], ids=["in memory", "by window"])
@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch", [4, 24, 64])
def test_the_stream_is_that_of_the_same_crops_in_memory(folder, index, window, batch, memory):
    source = ShardCrops(open_store(str(folder)), index, **memory)
    assert source.shard_sizes == (5, 5, 5, 5, 4)
    order = SampleOrder(source.shard_sizes, window, seed=1)
    whole = {"batch_size": batch, "part": slice(0, batch)}
    expected = list(islice(MemoryCrops(crops_of(folder, index)).stream(order, first_step=0, **whole), 20))
    for step, (found, wanted) in enumerate(
        zip(islice(source.stream(order, first_step=0, **whole), 20), expected, strict=True)
    ):
        assert found.dtype == torch.float16
        assert torch.equal(found, wanted), step


@pytest.mark.parametrize("window", [1, 2, 8])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_stream_can_start_at_any_step_and_parts_make_up_the_batch(folder, index, window, workers):
    source = ShardCrops(open_store(str(folder)), index, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, window, seed=2)
    memory = MemoryCrops(crops_of(folder, index))
    parts = [slice(8 * rank // workers, 8 * (rank + 1) // workers) for rank in range(workers)]
    for first in range(8):
        wanted = next(memory.stream(order, first_step=first, batch_size=8, part=slice(0, 8)))
        found = [next(source.stream(order, first_step=first, batch_size=8, part=part)) for part in parts]
        assert torch.equal(torch.cat(found), wanted), first


def test_a_cache_changes_nothing_and_spares_the_store(folder, index, tmp_path):
    order = SampleOrder((5, 5, 5, 5, 4), 2, seed=0)
    whole = {"first_step": 3, "batch_size": 4, "part": slice(0, 4)}
    bucket = "s3://any/prefix"
    stores, streams = [WatchedStore(folder) for _ in range(2)], []
    for store in stores:
        store.url = bucket
        source = ShardCrops(store, index, shard_cache(store, str(tmp_path / "cache"), 1), **BY_WINDOW)
        streams.append(list(islice(source.stream(order, **whole), 30)))
    assert torch.equal(torch.cat(streams[0]), torch.cat(streams[1]))
    assert sorted(stores[0].asked) == [f"train-{number:06d}.tar" for number in range(5)]
    assert stores[1].asked == []


def test_shards_in_a_bucket_are_streamed_through_the_cache(folder, index, s3_url, tmp_path):
    bucket = open_store(f"{s3_url}/{uuid.uuid4().hex}")
    for path in folder.iterdir():
        bucket.put(path.name, path.read_bytes())
    cache = shard_cache(bucket, str(tmp_path / "cache"), 1)
    source = ShardCrops(bucket, read_index(bucket), cache, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, 2, seed=0)
    whole = {"first_step": 0, "batch_size": 4, "part": slice(0, 4)}
    wanted = islice(MemoryCrops(crops_of(folder, index)).stream(order, **whole), 12)
    for found, expected in zip(islice(source.stream(order, **whole), 12), wanted, strict=True):
        assert torch.equal(found, expected)
    shards = [shard for shard in index.shards if shard.split == "train"]
    copies = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir() if path.stat().st_size}
    assert copies == {shard.sha256: (folder / shard.name).read_bytes() for shard in shards}


def test_by_default_buckets_are_cached_and_folders_are_not(folder):
    storage = StorageConfig()
    assert shard_cache(open_store("s3://bucket/data"), storage.cache, storage.cache_gb) is not None
    assert shard_cache(open_store("s3://bucket/data"), "", storage.cache_gb) is None
    assert shard_cache(open_store(str(folder)), storage.cache, storage.cache_gb) is None


# What is at hand


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("batch", [1, 8, 24])
def test_no_more_than_two_windows_of_shards_are_in_memory(folder, index, window, batch):
    store = WatchedStore(folder)
    source = ShardCrops(store, index, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, window, seed=0)
    stream = source.stream(order, first_step=0, batch_size=batch, part=slice(0, batch))
    for _ in range(4 * len(order) // batch):
        next(stream)
    assert store.most_alive <= 2 * window
    assert len(store.asked) > 5


def test_a_small_set_is_read_once_and_then_never_waited_for(folder, index):
    store = WatchedStore(folder)
    source = ShardCrops(store, index)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    stream = source.stream(order, first_step=0, batch_size=24, part=slice(0, 24))
    next(stream)
    waited_s = source.waited_s
    assert waited_s > 0
    for _ in range(5):
        next(stream)
    assert sorted(store.asked) == [f"train-{number:06d}.tar" for number in range(5)]
    assert source.waited_s == waited_s


def test_the_next_window_is_asked_for_while_the_current_one_is_used(folder, index):
    store = GatedStore(folder)
    source = ShardCrops(store, index, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, 2, seed=0)
    now = names_in_order(index, order, 1)
    both = names_in_order(index, order, 2)
    for name in now:
        store.gates[name].set()
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    for _ in range(2):
        next(stream)
    for name in both:
        assert store.asked[name].wait(DEADLINE_S)
    assert {name for name in store.asked if store.asked[name].is_set()} == set(both)
    for gate in store.gates.values():
        gate.set()


def test_waiting_for_a_shard_is_counted(folder, index):
    store = GatedStore(folder)
    source = ShardCrops(store, index)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    opened_after_s = 0.2
    opener = threading.Timer(opened_after_s, lambda: [gate.set() for gate in store.gates.values()])
    opener.start()
    began = time.perf_counter()
    next(stream)
    elapsed_s = time.perf_counter() - began
    opener.join()
    assert opened_after_s / 2 < source.waited_s <= elapsed_s


# Errors


DAMAGE = {
    "bit flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
    "truncated": lambda path: os.truncate(path, 5000),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("memory", [IN_MEMORY, BY_WINDOW], ids=["in memory", "by window"])
def test_a_damaged_shard_is_named_when_it_is_needed_and_not_before(folder, tmp_path, index, kind, memory):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = ShardCrops(open_store(str(tmp_path)), index, **memory)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    name = names_in_order(index, order, 3)[2]
    DAMAGE[kind](tmp_path / name)
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    for _ in range(next(islice(order.windows(0), 2, None)).start):
        next(stream)
    with pytest.raises((DataError, StoreError), match=name):
        next(stream)


def test_shards_whose_crops_differ_in_size_are_refused(folder, volumes, tmp_path):
    run_prepare(volumes, open_store(str(tmp_path)), OPTIONS)
    run_prepare(volumes, open_store(str(tmp_path / "larger")), OPTIONS.model_copy(update={"crop_px": 40}))
    facts = json.loads((tmp_path / INDEX).read_text())
    other = json.loads((tmp_path / "larger" / INDEX).read_text())["shards"][0]
    facts["shards"].append(other | {"name": f"larger/{other['name']}"})
    (tmp_path / INDEX).write_text(json.dumps(facts))
    store = open_store(str(tmp_path))
    source = ShardCrops(store, read_index(store))
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    with pytest.raises(DataError, match="differ in size"):
        list(islice(stream, len(order)))


# The end


def test_closing_a_stream_ends_its_threads(folder, index):
    store = GatedStore(folder)
    before = set(threading.enumerate())
    source = ShardCrops(store, index, num_threads=1)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    (current,) = names_in_order(index, order, 1)
    ahead = names_in_order(index, order, 2)[1]
    store.gates[current].set()
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    next(stream)
    assert store.asked[ahead].wait(DEADLINE_S)
    (thread,) = set(threading.enumerate()) - before
    stream.close()  # while the thread waits for the store
    store.gates[ahead].set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_tasks_that_wait_when_it_is_closed_are_not_begun():
    begun, gate = threading.Event(), threading.Event()
    ahead = Ahead(num_threads=1)
    first = ahead.submit(lambda: begun.set() or gate.wait(DEADLINE_S))
    second = ahead.submit(lambda: "too late")
    assert begun.wait(DEADLINE_S)
    ahead.close()
    gate.set()
    assert first.result(DEADLINE_S)
    assert not second.running()
    assert not second.done()


STUCK = """
import sys, threading
from pathlib import Path
from cluster.store import FolderStore
from cluster.stream import ShardCrops, read_index
from metasr.data.order import SampleOrder

class StuckStore(FolderStore):
    def get(self, key, **expected):
        if key.startswith("train"):
            print("reading", flush=True)
            threading.Event().wait()
        return super().get(key, **expected)

store = StuckStore(Path(sys.argv[1]))
source = ShardCrops(store, read_index(store), num_threads=1)
stream = source.stream(SampleOrder(source.shard_sizes, 1, 0), first_step=0, batch_size=1, part=slice(0, 1))
next(stream)
"""


def test_ctrl_c_ends_a_process_whose_store_does_not_answer(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(folder)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")


# Validation


@pytest.mark.parametrize("number", [1, 2, 3, 8, 100])
def test_validation_slices_are_spread_over_the_split(folder, index, number):
    everything = held_out_slices(open_store(str(folder)), index, 0)
    step = max(1, len(everything) // number)
    expected = everything[step // 2 :: step][:number]
    found = validation_slices(open_store(str(folder)), index, number)
    assert [(s.subject, s.number) for s in found] == [(s.subject, s.number) for s in expected]
    assert all(torch.equal(one.image, other.image) for one, other in zip(found, expected, strict=True))


def test_shards_without_a_validation_slice_are_not_read(folder, index):
    store = WatchedStore(folder)
    assert len([shard for shard in index.shards if shard.split == "val"]) > 1
    validation_slices(store, index, 1)
    assert len(store.asked) == 1
