"""Crops streamed from shards: the same as from memory, read ahead of need, no more at hand than is needed."""

import signal
import subprocess
import sys
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
from cluster.stream.prefetch import PrefetchThreads
from metasr.data.crops import MemoryCrops
from metasr.data.order import SampleOrder
from tests.cluster.plain_shards import write_index, write_shard
from tests.patience import PATIENCE_S

SIZES = (5, 5, 3, 5, 4)  # training crops in each shard
IN_MEMORY = {"keep_bytes": 1e9}
BY_WINDOW = {"keep_bytes": 0}


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).random((sum(SIZES), 9, 9)).astype(np.float16)


@pytest.fixture(scope="module")
def memory(crops):
    return MemoryCrops(torch.from_numpy(crops)[:, None])


@pytest.fixture(scope="module")
def folder(crops, tmp_path_factory):
    """A store with the crops in shards of `SIZES`, and two subjects to validate on, whose slices differ in size."""
    folder = tmp_path_factory.mktemp("shards")
    shards, first = [], 0
    for number, size in enumerate(SIZES):
        shards.append(write_shard(folder, f"train-{number:06d}.tar", crops[first : first + size], "one", first))
        first += size
    for number, (subject, size) in enumerate((("two", 10), ("three", 12))):
        slices = np.random.default_rng(number).random((4 + number, size, 11)).astype(np.float16)
        shards.append(write_shard(folder, f"val-{number:06d}.tar", slices, subject))
    write_index(folder, shards)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A store with 18 shards of four crops, and those crops in memory."""
    folder = tmp_path_factory.mktemp("many")
    crops = np.random.default_rng(1).random((72, 9, 9)).astype(np.float16)
    shards = [write_shard(folder, f"train-{i:06d}.tar", crops[4 * i : 4 * i + 4], "one", 4 * i) for i in range(18)]
    write_index(folder, [*shards, write_shard(folder, "val-000000.tar", crops[:1], "two")])
    return folder, MemoryCrops(torch.from_numpy(crops)[:, None])


@pytest.fixture
def index(folder):
    return read_index(open_store(str(folder)))


class WatchedStore(FolderStore):
    """A folder that knows what was asked for, and how many of the bytes it gave are still in memory."""

    def __init__(self, root):
        super().__init__(root)
        self.is_bucket = False
        self.asked, self.alive, self.most_alive = [], 0, 0
        self._lock = threading.Lock()

    @property
    def is_local(self):
        return not self.is_bucket

    def get(self, key, **expected):
        return self._watch(key, super().get(key, **expected))

    def get_range(self, key, *place):
        return self._watch(key, super().get_range(key, *place))

    def _watch(self, key, data):
        self.asked.append(key)
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

    @property
    def is_local(self):
        return not self.is_bucket

    def get(self, key, **expected):
        self.asked[key].set()
        assert self.gates[key].wait(PATIENCE_S)
        return super().get(key, **expected)


def names_in_order(index, order, number):
    names = [shard.name for shard in index.shards if shard.split == "train"]
    return [names[shard] for window in islice(order.windows(0, 0), number) for shard in window.shards]


# The same as from memory


@pytest.mark.parametrize("kept", [IN_MEMORY, BY_WINDOW], ids=["in memory", "by window"])
@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("batch", "num_virtual_shards"), [(4, 1), (24, 4), (64, 1), (64, 64)])
def test_the_stream_is_that_of_the_same_crops_in_memory(
    folder, index, memory, window, batch, num_virtual_shards, kept
):
    source = ShardCrops(open_store(str(folder)), index, **kept)
    assert source.shard_sizes == SIZES
    order = SampleOrder(source.shard_sizes, window, seed=1, num_virtual_shards=num_virtual_shards)
    whole = {"batch_size": batch, "part": slice(0, batch)}
    found = islice(source.stream(order, first_step=0, **whole), 20)
    expected = islice(memory.stream(order, first_step=0, **whole), 20)
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == torch.float16
        assert torch.equal(ours, theirs), step


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize(("batch", "window"), [(8, 4), (8, 12), (64, 4), (288, 12)])
def test_virtual_shards_may_go_through_many_windows_in_a_step(many, batch, window, num_threads):
    folder, memory = many
    store = FolderStore(folder)
    source = ShardCrops(store, read_index(store), **BY_WINDOW, num_threads=num_threads)
    order = SampleOrder(source.shard_sizes, window, seed=3, num_virtual_shards=4)
    whole = {"first_step": 1, "batch_size": batch, "part": slice(0, batch)}
    found, expected = source.stream(order, **whole), memory.stream(order, **whole)
    for step, (ours, theirs) in enumerate(islice(zip(found, expected, strict=True), 30)):
        assert torch.equal(ours, theirs), step


@pytest.mark.parametrize("window", [1, 2, 8])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_stream_can_start_at_any_step_and_parts_make_up_the_batch(folder, index, memory, window, workers):
    source = ShardCrops(open_store(str(folder)), index, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, window, seed=2, num_virtual_shards=4)
    parts = [slice(8 * rank // workers, 8 * (rank + 1) // workers) for rank in range(workers)]
    for first in range(8):
        wanted = next(memory.stream(order, first_step=first, batch_size=8, part=slice(0, 8)))
        found = [next(source.stream(order, first_step=first, batch_size=8, part=part)) for part in parts]
        assert torch.equal(torch.cat(found), wanted), first


def test_a_cache_changes_nothing_and_spares_the_store(folder, index, tmp_path):
    order = SampleOrder(SIZES, 2, seed=0)
    whole = {"first_step": 3, "batch_size": 4, "part": slice(0, 4)}
    stores, streams = [WatchedStore(folder) for _ in range(2)], []
    for store in stores:
        store.is_bucket = True
        source = ShardCrops(store, index, shard_cache(store, str(tmp_path / "cache"), 1), **BY_WINDOW)
        streams.append(list(islice(source.stream(order, **whole), 30)))
    assert torch.equal(torch.cat(streams[0]), torch.cat(streams[1]))
    assert sorted(stores[0].asked) == [f"train-{number:06d}.tar" for number in range(5)]
    assert stores[1].asked == []


def test_shards_in_a_bucket_are_streamed_through_the_cache(folder, index, memory, s3_url, tmp_path):
    bucket = open_store(f"{s3_url}/{uuid.uuid4().hex}")
    for path in folder.iterdir():
        bucket.put(path.name, path.read_bytes())
    cache = shard_cache(bucket, str(tmp_path / "cache"), 1)
    source = ShardCrops(bucket, read_index(bucket), cache, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, 2, seed=0)
    whole = {"first_step": 0, "batch_size": 4, "part": slice(0, 4)}
    wanted = islice(memory.stream(order, **whole), 12)
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


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("window", "num_virtual_shards", "own"), [(1, 1, 1), (6, 1, 1), (1, 2, 1), (4, 2, 1), (4, 2, 2)]
)
@pytest.mark.parametrize("batch", [2, 8, 24])
def test_no_more_shards_are_in_memory_than_is_promised(many, window, num_virtual_shards, own, batch, num_threads):
    store = WatchedStore(many[0])
    source = ShardCrops(store, read_index(FolderStore(many[0])), **BY_WINDOW, num_threads=num_threads)
    order = SampleOrder(source.shard_sizes, window, seed=0, num_virtual_shards=num_virtual_shards)
    stream = source.stream(order, first_step=0, batch_size=batch, part=slice(0, own * batch // num_virtual_shards))
    for _ in range(4 * num_virtual_shards * len(order) // batch):
        next(stream)
    now = own * max(1, window // num_virtual_shards)
    assert store.most_alive <= now + max(now, num_threads) < len(source.shard_sizes)
    assert len(store.asked) > len(source.shard_sizes)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_workers_together_read_each_shard_once_an_epoch_and_again_where_virtual_shards_meet(many, workers):
    num_shards, epochs, num_virtual_shards, num_threads = 18, 6, 4, 4
    names = [f"train-{number:06d}.tar" for number in range(num_shards)]
    asked = []
    for rank in range(workers):
        store = WatchedStore(many[0])
        source = ShardCrops(store, read_index(store), **BY_WINDOW, num_threads=num_threads)
        order = SampleOrder(source.shard_sizes, window=4, seed=0, num_virtual_shards=num_virtual_shards)
        part = slice(8 * rank // workers, 8 * (rank + 1) // workers)
        list(islice(source.stream(order, first_step=0, batch_size=8, part=part), epochs * len(order) // 8))
        asked += [name for name in store.asked if name != INDEX]
    ahead = num_virtual_shards + workers * num_threads  # shards of an epoch that is not part of the count
    assert set(asked) == set(names)
    assert len(asked) <= epochs * (num_shards + num_virtual_shards - 1) + ahead


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
    source = ShardCrops(store, index, **BY_WINDOW, num_threads=2)
    order = SampleOrder(source.shard_sizes, 2, seed=0)
    now = names_in_order(index, order, 1)
    both = names_in_order(index, order, 2)
    for name in now:
        store.gates[name].set()
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    for _ in range(2):
        next(stream)
    for name in both:
        assert store.asked[name].wait(PATIENCE_S)
    assert {name for name in store.asked if store.asked[name].is_set()} == set(both)
    for gate in store.gates.values():
        gate.set()


def test_threads_that_have_read_the_next_window_go_on_with_the_one_after_it(folder, index):
    store = GatedStore(folder)
    source = ShardCrops(store, index, **BY_WINDOW, num_threads=2)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    now, following, after = names_in_order(index, order, 3)
    for name in (now, following):
        store.gates[name].set()
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    next(stream)
    assert store.asked[after].wait(PATIENCE_S)
    assert {name for name in store.asked if store.asked[name].is_set()} == {now, following, after}
    for gate in store.gates.values():
        gate.set()


def test_waiting_for_a_shard_is_counted(folder, index):
    store = GatedStore(folder)
    source = ShardCrops(store, index)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    opened_after_s = 0.2

    def open_gates():
        while not any(asked.is_set() for asked in store.asked.values()):
            time.sleep(0.01)
        time.sleep(opened_after_s)
        for gate in store.gates.values():
            gate.set()

    opener = threading.Thread(target=open_gates)
    opener.start()
    began = time.perf_counter()
    next(stream)
    elapsed_s = time.perf_counter() - began
    opener.join()
    assert opened_after_s / 2 < source.waited_s <= elapsed_s


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
    assert store.asked[ahead].wait(PATIENCE_S)
    (thread,) = set(threading.enumerate()) - before
    stream.close()  # while the thread waits for the store
    store.gates[ahead].set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_tasks_that_wait_when_it_is_closed_are_not_begun():
    begun, gate = threading.Event(), threading.Event()
    threads = PrefetchThreads(num_threads=1)
    first = threads.submit(lambda: begun.set() or gate.wait(PATIENCE_S))
    second = threads.submit(lambda: "too late")
    assert begun.wait(PATIENCE_S)
    threads.close()
    gate.set()
    assert first.result(PATIENCE_S)
    assert not second.running()
    assert not second.done()


STUCK = """
import sys, threading
from pathlib import Path
from cluster.store import FolderStore
from cluster.stream import ShardCrops, read_index
from metasr.data.order import SampleOrder

class StuckStore(FolderStore):
    @property
    def is_local(self):
        return not self.is_bucket

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
    )
    try:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
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
