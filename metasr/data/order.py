"""The order in which training samples are seen: a pure function of the seed and the position in the run."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SampleOrder:
    """Every sample once an epoch, epoch after epoch, each in an order of its own.

    Samples lie in shards, too many to have all of them at hand. An epoch visits the shards in random order, a few at
    a time (a window), and mixes the samples of those: whoever knows the position in the run knows which few shards
    are needed now and next. With one window for all shards, an epoch is one random permutation.

    Attributes:
        shard_sizes: Samples in each shard. Samples are numbered through all shards.
        window: Shards that are mixed, at least 1.
        seed: Decides the order.
    """

    shard_sizes: tuple[int, ...]
    window: int
    seed: int

    def __len__(self) -> int:
        """Return the samples of an epoch."""
        return sum(self.shard_sizes)

    def samples(self, first: int, number: int) -> NDArray[np.int64]:
        """Return which samples are seen at the positions `first` to `first + number - 1` of the run."""
        found = np.empty(number, np.int64)
        for window in self.windows(first):
            if window.start >= first + number:
                return found
            low, high = max(window.start, first), min(window.stop, first + number)
            mixed = _mixed(self, window.epoch, window.shards)
            found[low - first : high - first] = mixed[low - window.start : high - window.start]
        raise AssertionError  # windows have no end

    def windows(self, first: int) -> "Iterator[Window]":
        """Yield the windows in which shards are needed, from the one that holds position `first` on, without end."""
        for epoch in count(first // len(self)):
            for window in _windows(self, epoch):
                if window.stop > first:
                    yield window


class Window(NamedTuple):
    """Shards that are mixed, and the positions in the run that their samples take."""

    epoch: int
    start: int
    stop: int
    shards: tuple[int, ...]


@lru_cache(maxsize=4)
def _windows(order: SampleOrder, epoch: int) -> tuple[Window, ...]:
    shuffled = np.random.default_rng([order.seed, 3, epoch]).permutation(len(order.shard_sizes)).tolist()
    windows, start = [], epoch * len(order)
    for i in range(0, len(shuffled), order.window):
        shards = tuple(shuffled[i : i + order.window])
        stop = start + sum(order.shard_sizes[shard] for shard in shards)
        windows.append(Window(epoch, start, stop, shards))
        start = stop
    return tuple(windows)


@lru_cache(maxsize=4)
def _mixed(order: SampleOrder, epoch: int, shards: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the samples of a window's shards in the order in which they are seen."""
    starts = np.concatenate([[0], np.cumsum(order.shard_sizes)])
    members = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in sorted(shards)])
    return members[np.random.default_rng([order.seed, 2, epoch, min(shards)]).permutation(len(members))]
