"""Crops in shards and in memory, and a store that knows what was asked of it."""

import threading

import numpy as np
import torch

from cluster.store import FolderStore
from metasr.data.crops import MemoryCrops
from tests.cluster.plain_shards import write_index, write_shard

SIZES = (5, 5, 3, 5, 4)  # training crops in each of the few shards
BY_WINDOW = {"keep_bytes": 0}


def few_shards(folder):
    """Write shards of `SIZES`, and two subjects to validate on, whose slices differ in size; return the crops."""
    crops = np.random.default_rng(0).random((sum(SIZES), 9, 9)).astype(np.float16)
    shards, first = [], 0
    for number, size in enumerate(SIZES):
        shards.append(write_shard(folder, f"train-{number:06d}.tar", crops[first : first + size], "one", first))
        first += size
    for number, (subject, size) in enumerate((("two", 10), ("three", 12))):
        slices = np.random.default_rng(number).random((4 + number, size, 11)).astype(np.float16)
        shards.append(write_shard(folder, f"val-{number:06d}.tar", slices, subject))
    write_index(folder, shards)
    return MemoryCrops(torch.from_numpy(crops)[:, None])


def many_shards(folder):
    """Write 18 shards of four crops; return the crops."""
    crops = np.random.default_rng(1).random((72, 9, 9)).astype(np.float16)
    shards = [write_shard(folder, f"train-{i:06d}.tar", crops[4 * i : 4 * i + 4], "one", 4 * i) for i in range(18)]
    write_index(folder, [*shards, write_shard(folder, "val-000000.tar", crops[:1], "two")])
    return MemoryCrops(torch.from_numpy(crops)[:, None])


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
