"""Training crops from the shards of a store, which are read before they are needed."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.shards import Index, Shard
from cluster.store import Store
from cluster.stream.ahead import Ahead
from cluster.stream.cache import ShardCache
from cluster.stream.verified import read_shard
from metasr.data.order import SampleOrder
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
        self._starts = self._ends - self.shard_sizes
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
        lanes, share = order.lanes_of(batch_size, part), order.share(batch_size)
        with closing(Ahead[_Crops](self._num_threads)) as ahead:

            def read(shard: int) -> Future[_Crops]:
                return ahead.submit(partial(self._read, self._shards[shard]))

            at_hand = _AtHand(order, lanes, first_step * share, read, keeps_all=self._keeps_all)
            while True:
                yield self._gather(at_hand, lanes, share)

    def _gather(self, at_hand: "_AtHand", lanes: range, share: int) -> Tensor:
        taken = (pair for lane in lanes for pair in at_hand.take(lane, share))
        return torch.from_numpy(np.stack([self._copy(sample, shards) for sample, shards in taken]))[:, None]

    def _copy(self, sample: int, shards: dict[int, Future[_Crops]]) -> NDArray[np.float16]:
        """Return a crop that does not keep its shard in memory, or a batch could keep those of several windows."""
        shard = int(np.searchsorted(self._ends, sample, side="right"))
        crop = self._wait(shards[shard])[sample - int(self._starts[shard])]
        self._crop_shape = self._crop_shape or crop.shape
        if crop.shape != self._crop_shape:
            raise DataError("the training shards", "their crops differ in size", "Prepare the data again")
        return crop.copy()

    def _wait(self, future: Future[_Crops]) -> _Crops:
        if future.done():
            return future.result()
        began = time.perf_counter()
        try:
            return future.result()
        finally:
            self.waited_s += time.perf_counter() - began


class _AtHand:
    """The shards of the window that each lane is in and of its next, read or being read.

    Args:
        order: Which sample comes when.
        lanes: Those that are taken from.
        first: Position of each in its lane.
        read: Begins to read a shard.
        keeps_all: Whether shards stay when their window has passed.
    """

    def __init__(
        self, order: SampleOrder, lanes: range, first: int, read: Callable[[int], Future[_Crops]], *, keeps_all: bool
    ) -> None:
        self._lanes = {lane: _Lane(order, lane, first) for lane in lanes}
        self._read, self._keeps_all = read, keeps_all
        self._held: dict[int, Future[_Crops]] = {}
        self._hold()

    def take(self, lane: int, number: int) -> Iterator[tuple[int, dict[int, Future[_Crops]]]]:
        """Yield the next samples of a lane, each with shards of which one is its own, until the next is asked for."""
        for _ in range(number):
            sample = next(self._lanes[lane].left, None)
            if sample is None:
                self._lanes[lane].go_on()
                self._hold()
                sample = next(self._lanes[lane].left)
            yield sample, self._held

    def _hold(self) -> None:
        lanes = self._lanes.values()
        windows = [*(lane.current for lane in lanes), *(lane.next for lane in lanes)]  # first what is needed first
        needed = dict.fromkeys(shard for window in windows for shard in window.shards)
        if not self._keeps_all:
            for shard in self._held.keys() - needed.keys():
                self._held.pop(shard).cancel()
        for shard in needed:
            if shard not in self._held:
                self._held[shard] = self._read(shard)


class _Lane:
    """Where a lane is.

    Attributes:
        current: The window in use.
        next: The one after it.
        left: Samples of the current window that were not taken yet.
    """

    def __init__(self, order: SampleOrder, lane: int, first: int) -> None:
        self._order, self._windows = order, order.windows(lane, first)
        self.current, self.next = next(self._windows), next(self._windows)
        self.left = iter(order.mixed(self.current)[first - self.current.start :].tolist())

    def go_on(self) -> None:
        """Enter the next window."""
        self.current, self.next = self.next, next(self._windows)
        self.left = iter(self._order.mixed(self.current).tolist())


def _read_crops(store: Store, index: Index, cache: ShardCache | None, shard: Shard) -> _Crops:
    """Return the crops of a shard, all of one size."""
    crops = [sample.image for sample in read_shard(store, index, shard, cache)]
    if len({crop.shape for crop in crops}) != 1:
        raise DataError(f"shard {shard.name}", "its crops differ in size", "Prepare the data again")
    return crops
