"""Training crops from the shards of a store, which are read before they are needed."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.shards import Index, Shard
from cluster.store import Store, StoreWait
from cluster.stream.cache import ShardCache
from cluster.stream.prefetch import PrefetchedShards, PrefetchThreads
from cluster.stream.verified import CORRUPT, ShardReader
from metasr.data.order import SampleOrder
from metasr.errors import DataError, MetaSRError

log = logging.getLogger(__name__)

_Crops = list[NDArray[np.float16]]
NUM_THREADS = 4
KEPT_WHOLE_BYTES = 1_000_000_000
"""Training sets up to this stay in a worker's memory."""


class Substituted(NamedTuple):
    """A shard that cannot be used, and the one whose samples stand in for its own."""

    shard: str
    by: str
    reason: str


class ShardCrops:
    """The training crops of a store, a `metasr.data.crops.CropSource`.

    In memory are, read or being read, the shards of the current window of each virtual shard, and of those that come
    next as many again, or `num_threads` where that is more: `max_shards_in_memory`; or all shards if they are few. So
    all threads have something to read while shards that have arrived are checked and used. What is kept, and where,
    never changes what is yielded.

    While the store is away the stream waits, however long, and says so once; it goes on when the store is back.

    Args:
        store: Where the shards are.
        index: Of that store.
        cache: Asked for a shard before the store is.
        on_corrupt: What happens when a shard is missing or damaged at its source: stop raises its error; skip gives,
            in the place of each of its samples, one of another shard, which follows from the seed of the order and
            the sample alone.
        keep_bytes: If all training shards take no more than this together, each is read once and stays in memory.
        num_threads: Shards that are read at the same time.

    Attributes:
        waited_s: Seconds that the consumer of the crops has waited for shards so far.
        substituted: Shards that were replaced so far, each once.

    Raises:
        DataError: The index names a shard without samples.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        cache: ShardCache | None = None,
        *,
        on_corrupt: Literal["stop", "skip"] = "stop",
        keep_bytes: float = KEPT_WHOLE_BYTES,
        num_threads: int = NUM_THREADS,
    ) -> None:
        self.waited_s = 0.0
        self.substituted: list[Substituted] = []
        self._shards = [shard for shard in index.shards if shard.split == "train"]
        self._store, self._reader = store, ShardReader(store, index, cache)
        self._skips, self._num_threads = on_corrupt == "skip", num_threads
        self._wait_for_store = StoreWait(store, log.warning).run
        self._noting = threading.Lock()
        self._crop_shape: tuple[int, ...] | None = None
        self._keeps_all = sum(shard.num_bytes for shard in self._shards) <= keep_bytes
        for shard in self._shards:
            if shard.num_samples < 1:
                raise DataError(f"shard {shard.name}", "the index says that it is empty", "Prepare the data again")

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Crops in each shard."""
        return tuple(shard.num_samples for shard in self._shards)

    def stream(self, order: SampleOrder, *, first_step: int, batch_size: int, part: slice) -> Iterator[Tensor]:
        """Yield a worker's part of each step's crops, `[B, 1, side, side]` float16, see `CropSource`.

        Reading begins with the first `next` and ends when the iterator is closed.

        Raises:
            StoreError: A shard that is needed now cannot be read.
            DataError: A shard that is needed now is not what the index says.
            ValueError: The part is not made of whole virtual shards.
        """
        virtual_shards, share = order.virtual_shards_of(batch_size, part), order.share(batch_size)
        with closing(PrefetchThreads[_Crops](self._num_threads)) as threads:

            def read(shard: int) -> Future[_Crops]:
                return threads.submit(partial(self._read, shard, order.seed, threads.closed))

            own, total = len(virtual_shards), order.num_virtual_shards
            most = max_shards_in_memory(own, total, order.window, self._num_threads)
            first = first_step * share
            shards = PrefetchedShards(order, virtual_shards, first, read, most, keeps_all=self._keeps_all)
            while True:
                taken = (crop for number in virtual_shards for crop in shards.take(number, share))
                yield self._gather(taken, own * share)

    def _gather(self, taken: Iterator[tuple[Future[_Crops], int]], number: int) -> Tensor:
        """Copy crops into a batch, which then keeps no shard in memory."""
        batch = np.empty(0, np.float16)
        for place, (shard, sample) in enumerate(taken):
            crop = self._wait(shard)[sample]
            self._crop_shape = self._crop_shape or crop.shape
            if crop.shape != self._crop_shape:
                raise DataError("the training shards", "their crops differ in size", "Prepare the data again")
            if not place:
                batch = np.empty((number, 1, *crop.shape), np.float16)
            batch[place, 0] = crop
            del shard, crop  # or they would keep a shard in memory whose window has passed
        return torch.from_numpy(batch)

    def _wait(self, shard: Future[_Crops]) -> _Crops:
        began = time.perf_counter()
        while not shard.done():
            wait([shard], timeout=1)  # a Ctrl-C that comes just before a wait without end would not be heard
            self.waited_s += time.perf_counter() - began
            began = time.perf_counter()
        return shard.result()

    def _read(self, number: int, seed: int, closed: threading.Event) -> _Crops:
        """Return the crops of a shard, or as many of another in their place."""
        shard = self._shards[number]
        try:
            return self._surely(shard, closed)
        except CORRUPT as error:
            if not self._skips:
                raise
            self._wait_for_store(self._store.require, closed)  # without its bucket or folder, no shard is there
            return self._replaced(number, seed, closed, error)

    def _replaced(self, number: int, seed: int, closed: threading.Event, error: MetaSRError) -> _Crops:
        """Return crops in the place of those of a shard, from the first of the others that can be read."""
        shard = self._shards[number]
        for other in np.random.default_rng([seed, 5, number]).permutation(len(self._shards)).tolist():
            if other != number:
                name = self._shards[other].name
                with suppress(*CORRUPT):
                    crops = self._surely(self._shards[other], closed)
                    self._note(Substituted(shard.name, name, str(error)))
                    return [crops[i % len(crops)] for i in range(shard.num_samples)]
        raise error

    def _note(self, substituted: Substituted) -> None:
        with self._noting:
            if substituted.shard not in {known.shard for known in self.substituted}:
                self.substituted.append(substituted)
                log.warning("%s Samples of %s stand in for its own", substituted.reason, substituted.by)

    def _surely(self, shard: Shard, closed: threading.Event) -> _Crops:
        """Return the crops of a shard. An error was met twice in a row: the last of many tries may have bad luck."""
        ask = partial(self._wait_for_store, partial(self._crops_of, shard), closed)
        with suppress(*CORRUPT):
            return ask()
        return ask()

    def _crops_of(self, shard: Shard) -> _Crops:
        """Return the crops of a shard, all of one size."""
        crops = [sample.image for sample in self._reader.read(shard)]
        if len({crop.shape for crop in crops}) != 1:
            raise DataError(f"shard {shard.name}", "its crops differ in size", "Prepare the data again")
        return crops


def max_shards_in_memory(own: int, num_virtual_shards: int, window: int, num_threads: int = NUM_THREADS) -> int:
    """Return how many shards a stream holds at most: two windows, or more where threads had nothing to read.

    Args:
        own: Virtual shards that it reads.
        num_virtual_shards: All virtual shards.
        window: Shards that are mixed with each other, over all virtual shards.
        num_threads: Shards that are read at the same time.
    """
    now = own * max(1, window // num_virtual_shards)
    return now + max(now, num_threads)
