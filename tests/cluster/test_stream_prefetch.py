"""Reading ahead of need: no more shards at hand than promised, no waiting that can be spared, no thread left."""

import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest

from cluster.shards import INDEX
from cluster.store import FolderStore, open_store
from cluster.stream import ShardCrops, read_index
from cluster.stream.prefetch import PrefetchThreads
from metasr.data.order import SampleOrder
from tests.cluster.streaming import BY_WINDOW, WatchedStore, few_shards, many_shards
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    few_shards(folder)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    many_shards(folder)
    return folder


@pytest.fixture
def index(folder):
    return read_index(open_store(str(folder)))


class GatedStore(FolderStore):
    """A folder that gives a shard when its gate is opened."""

    def __init__(self, root):
        super().__init__(root)
        names = [path.name for path in root.iterdir()]
        self.asked, self.gates = ({name: threading.Event() for name in names} for _ in range(2))

    def get(self, key, **expected):
        self.asked[key].set()
        assert self.gates[key].wait(PATIENCE_S)
        return super().get(key, **expected)


def names_in_order(index, order, number):
    names = [shard.name for shard in index.shards if shard.split == "train"]
    return [names[shard] for window in islice(order.windows(0, 0), number) for shard in window.shards]


# What is at hand


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("window", "num_virtual_shards", "own"), [(1, 1, 1), (6, 1, 1), (1, 2, 1), (4, 2, 1), (4, 2, 2)]
)
@pytest.mark.parametrize("batch", [2, 8, 24])
def test_no_more_shards_are_in_memory_than_is_promised(many, window, num_virtual_shards, own, batch, num_threads):
    store = WatchedStore(many)
    source = ShardCrops(store, read_index(FolderStore(many)), **BY_WINDOW, num_threads=num_threads)
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
        store = WatchedStore(many)
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
