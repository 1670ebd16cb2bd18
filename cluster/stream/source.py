"""Training crops from the shards of a store, which are read before they are needed."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.shards import Index, Shard
from cluster.store import Store
from cluster.stream.ahead import Ahead
from cluster.stream.cache import ShardCache
from cluster.stream.verified import read_shard
from metasr.data.order import SampleOrder, Window
from metasr.errors import DataError

_Crops = list[NDArray[np.float16]]


class ShardCrops:
    """The training crops of a store, a `metasr.data.crops.CropSource`.

    In memory are the shards of the current window and of the next, read or being read: at most `2 * order.window`
    times the bytes of a shard (1 GB for the default 8 shards of 64 MB), or all of them if they are few. What is kept,
    and where, never changes what is yielded.

    Args:
        store: Where the shards are.
        index: Of that store.
        cache: Asked for a shard before the store is.
        keep_bytes: If all training shards take no more than this together, each is read once and stays in memory.
        num_threads: Shards that are read at the same time.

    Attributes:
        waited_s: Seconds that the consumer of the crops has waited for shards so far.

    Raises:
        DataError: The index names a shard without samples.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        cache: ShardCache | None = None,
        *,
        keep_bytes: float = 1e9,
        num_threads: int = 4,
    ) -> None:
        self.waited_s = 0.0
        self._shards = [shard for shard in index.shards if shard.split == "train"]
        self._read = partial(_read_crops, store, index, cache)
        self._num_threads = num_threads
        self._ends = np.cumsum(self.shard_sizes)
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
        """
        first = range(first_step * batch_size, (first_step + 1) * batch_size)[part][0]
        with closing(Ahead[_Crops](self._num_threads)) as ahead:

            def read(shard: int) -> Future[_Crops]:
                return ahead.submit(partial(self._read, self._shards[shard]))

            at_hand = _AtHand(order.windows(first), read, keeps_all=self._keeps_all)
            for step in count(first_step):
                positions = range(step * batch_size, (step + 1) * batch_size)[part]
                yield self._gather(at_hand, positions, order.samples(step * batch_size, batch_size)[part])

    def _gather(self, at_hand: "_AtHand", positions: range, samples: NDArray[np.int64]) -> Tensor:
        shards = np.searchsorted(self._ends, samples, side="right")
        numbers = samples - (self._ends - self.shard_sizes)[shards]
        crops = []
        for position, shard, number in zip(positions, shards.tolist(), numbers.tolist(), strict=True):
            # Copied, or a batch that reaches over several windows would keep the shards of all of them.
            crops.append(self._wait(at_hand.shard(shard, position))[number].copy())
            self._crop_shape = self._crop_shape or crops[-1].shape
            if crops[-1].shape != self._crop_shape:
                raise DataError("the training shards", "their crops differ in size", "Prepare the data again")
        return torch.from_numpy(np.stack(crops))[:, None]

    def _wait(self, future: Future[_Crops]) -> _Crops:
        if future.done():
            return future.result()
        began = time.perf_counter()
        try:
            return future.result()
        finally:
            self.waited_s += time.perf_counter() - began


class _AtHand:
    """The shards of the window in use and of the next, read or being read; in use is that of the last position.

    Args:
        windows: From the first position on.
        read: Begins to read a shard.
        keeps_all: Whether shards stay when their window has passed.
    """

    def __init__(self, windows: Iterator[Window], read: Callable[[int], Future[_Crops]], *, keeps_all: bool) -> None:
        self._windows, self._read, self._keeps_all = windows, read, keeps_all
        self._held: dict[int, Future[_Crops]] = {}
        self._current, self._next = next(windows), next(windows)
        self._hold()

    def shard(self, shard: int, position: int) -> Future[_Crops]:
        """Return the shard, which must be one of the window that holds `position`; positions do not go back."""
        while position >= self._current.stop:
            self._current, self._next = self._next, next(self._windows)
            self._hold()
        return self._held[shard]

    def _hold(self) -> None:
        needed = dict.fromkeys((*self._current.shards, *self._next.shards))  # in this order
        if not self._keeps_all:
            for shard in self._held.keys() - needed.keys():
                self._held.pop(shard).cancel()
        for shard in needed:
            if shard not in self._held:
                self._held[shard] = self._read(shard)


def _read_crops(store: Store, index: Index, cache: ShardCache | None, shard: Shard) -> _Crops:
    """Return the crops of a shard, all of one size."""
    crops = [sample.image for sample in read_shard(store, index, shard, cache)]
    if len({crop.shape for crop in crops}) != 1:
        raise DataError(f"shard {shard.name}", "its crops differ in size", "Prepare the data again")
    return crops
